#include "gateway/inference_service.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/unary_collector.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/status_map.h"
#include "proto/validate.h"

namespace dunlin::gateway {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  // No deadline arrives as the far end of the clock; a year is more than any stream lasts.
  if (deadline > std::chrono::system_clock::now() + std::chrono::hours(24 * 365)) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

// The metadata that says who calls.
absl::StatusOr<Caller> CallerOf(const RelayServices& services, const grpc::CallbackServerContext& context) {
  CallerMetadata metadata;
  for (const auto& [name, value] : context.client_metadata()) {
    const absl::string_view key(name.data(), name.size());
    const absl::string_view text(value.data(), value.size());
    if (key == "authorization") metadata.authorization.push_back(text);
    if (key == "x-dunlin-tenant") metadata.tenant.push_back(text);
    if (key == "x-dunlin-priority") metadata.priority.push_back(text);
  }
  return services.tenants->Identify(metadata);
}

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>, public CallOutlet {
 public:
  GenerateReactor(const RelayServices* services, const v1::GenerateRequest& request,
                  const grpc::CallbackServerContext& context)
      : call_(
            std::make_shared<RelayStream>(services, request, CallerOf(*services, context), DeadlineOf(context), this)) {
    call_->Start();
  }

  bool Write(const v1::GenerateResponse& message) override {
    StartWrite(&message);
    return false;
  }
  void Finish(const absl::Status& status) override { ServerWriteReactor::Finish(ToGrpcStatus(status)); }

  void OnWriteDone(bool ok) override { call_->OnWriteDone(ok); }
  void OnCancel() override { call_->OnCancel(); }
  void OnDone() override {
    call_->OnDone();
    delete this;
  }

 private:
  const std::shared_ptr<RelayStream> call_;
};

class GenerateUnaryReactor final : public grpc::ServerUnaryReactor, public CallOutlet {
 public:
  GenerateUnaryReactor(const RelayServices* services, const v1::GenerateRequest& request,
                       const grpc::CallbackServerContext& context, v1::GenerateUnaryResponse* response)
      : response_(response),
        call_(
            std::make_shared<RelayStream>(services, request, CallerOf(*services, context), DeadlineOf(context), this)) {
    call_->Start();
  }

  bool Write(const v1::GenerateResponse& message) override {
    MergeEvent(message, response_);
    return true;
  }
  void Finish(const absl::Status& status) override { ServerUnaryReactor::Finish(ToGrpcStatus(status)); }

  void OnCancel() override { call_->OnCancel(); }
  void OnDone() override {
    call_->OnDone();
    delete this;
  }

 private:
  v1::GenerateUnaryResponse* const response_;
  const std::shared_ptr<RelayStream> call_;
};

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status TokenizeNow(const model::Tokenizer& tokenizer, const v1::TokenizeRequest& request,
                         v1::TokenizeResponse* response) {
  const auto ids =
      tokenizer.Encode(request.text(), {.add_special = !request.has_add_special() || request.add_special(),
                                        .parse_special = !request.has_parse_special() || request.parse_special()});
  if (!ids.ok()) return ids.status();
  for (const model::TokenId id : *ids) {
    response->add_token_ids(static_cast<uint32_t>(id));
    const absl::string_view bytes = tokenizer.TokenBytes(id, /*special_text=*/true);
    response->add_pieces(bytes.data(), bytes.size());
  }
  response->set_count(static_cast<uint32_t>(ids->size()));
  return absl::OkStatus();
}

absl::Status DetokenizeNow(const model::Tokenizer& tokenizer, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse* response) {
  for (int i = 0; i < request.token_ids_size(); ++i) {
    if (request.token_ids(i) < static_cast<uint32_t>(tokenizer.vocab_size())) continue;
    return BadRequestError(
        {{absl::StrCat("token_ids[", i, "]"),
          absl::StrCat("is ", request.token_ids(i), ", must be below the vocabulary size ", tokenizer.vocab_size())}});
  }
  model::StreamDecoder decoder(&tokenizer, request.skip_special());
  for (const uint32_t id : request.token_ids()) {
    decoder.Append(static_cast<model::TokenId>(id), response->mutable_text());
  }
  response->set_lossy(decoder.Finish(response->mutable_text()));
  return absl::OkStatus();
}

// Runs `work` on the work pool and finishes the call with its status: it may take long, and gRPC's threads are few.
template <typename Work>
grpc::ServerUnaryReactor* RunOnWorkPool(const RelayServices& services, grpc::CallbackServerContext* context,
                                        Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool queued =
      services.work->TrySubmit([reactor, work = std::move(work)] { reactor->Finish(ToGrpcStatus(work())); });
  if (!queued) {
    absl::Status status = absl::ResourceExhaustedError("tokenizer queue is full");
    AttachRetryInfo(absl::Milliseconds(100), &status);
    AttachQuotaFailure("gateway:tokenizer", "requests waiting to be tokenised", &status);
    reactor->Finish(ToGrpcStatus(status));
  }
  return reactor;
}

}  // namespace

absl::Status InferenceServiceImpl::Check(const grpc::CallbackServerContext& context, absl::string_view model) const {
  if (const absl::StatusOr<Caller> caller = CallerOf(*services_, context); !caller.ok()) return caller.status();
  return model_->CheckName(model);
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Generate(grpc::CallbackServerContext* context,
                                                                               const v1::GenerateRequest* request) {
  return new GenerateReactor(services_, *request, *context);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GenerateUnary(grpc::CallbackServerContext* context,
                                                              const v1::GenerateUnaryRequest* request,
                                                              v1::GenerateUnaryResponse* response) {
  return new GenerateUnaryReactor(services_, request->request(), *context, response);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  if (const absl::Status status = Check(*context, request->model()); !status.ok()) return FinishNow(context, status);
  return RunOnWorkPool(*services_, context,
                       [this, request, response] { return TokenizeNow(*model_->tokenizer, *request, response); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  if (const absl::Status status = Check(*context, request->model()); !status.ok()) return FinishNow(context, status);
  return RunOnWorkPool(*services_, context,
                       [this, request, response] { return DetokenizeNow(*model_->tokenizer, *request, response); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                           const v1::ListModelsRequest*,
                                                           v1::ListModelsResponse* response) {
  if (const absl::Status status = Check(*context, ""); !status.ok()) return FinishNow(context, status);
  *response->add_models() = model_->Describe(*services_->workers);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Embed(grpc::CallbackServerContext* context, const v1::EmbedRequest*,
                                                      v1::EmbedResponse*) {
  const absl::Status status = Check(*context, "");
  return FinishNow(context, status.ok() ? NotBuiltError("Embed") : status);
}

}  // namespace dunlin::gateway
