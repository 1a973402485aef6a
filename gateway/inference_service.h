// The public gRPC service: thin reactors in front of RelayStream, and the small unary calls.
// Thread-safety: thread-safe.  Borrows: the services (must outlive this and every call).
// Errors: statuses of RelayStream and PromptBuilder, mapped by proto/status_map.h.  No reaction blocks or tokenises.
// Source: gRPC's callback API rules: one write in flight, Finish once, OnDone deletes.
#ifndef DUNLIN_GATEWAY_INFERENCE_SERVICE_H_
#define DUNLIN_GATEWAY_INFERENCE_SERVICE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "dunlin/v1/inference.grpc.pb.h"
#include "gateway/model_info.h"
#include "gateway/relay_stream.h"

namespace dunlin::gateway {

class InferenceServiceImpl final : public v1::InferenceService::CallbackService {
 public:
  InferenceServiceImpl(const RelayServices* services, const ModelInfo* model) : services_(services), model_(model) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GenerateUnary(grpc::CallbackServerContext* context, const v1::GenerateUnaryRequest* request,
                                          v1::GenerateUnaryResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context, const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override;

 private:
  // Whether the caller may call and the model is ours ("" = the only one); for the calls without a RelayStream.
  absl::Status Check(const grpc::CallbackServerContext& context, absl::string_view model) const;

  const RelayServices* const services_;
  const ModelInfo* const model_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_INFERENCE_SERVICE_H_
