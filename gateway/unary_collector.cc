#include "gateway/unary_collector.h"

#include <cstdint>

namespace dunlin::gateway {
namespace {

v1::Choice* ChoiceAt(uint32_t index, v1::GenerateUnaryResponse* response) {
  while (response->choices_size() <= static_cast<int>(index)) {
    const auto next = static_cast<uint32_t>(response->choices_size());
    response->add_choices()->set_index(next);
  }
  return response->mutable_choices(static_cast<int>(index));
}

void MergeFinished(const v1::Finished& finished, v1::Choice* choice) {
  choice->set_reason(finished.reason());
  if (finished.has_stop()) choice->set_stop(finished.stop());
  if (finished.has_stop_token_id()) choice->set_stop_token_id(finished.stop_token_id());
}

}  // namespace

void MergeEvent(const v1::GenerateResponse& event, v1::GenerateUnaryResponse* response) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kAccepted:
      response->set_request_id(event.accepted().request_id());
      response->set_model(event.accepted().model());
      break;
    case v1::GenerateResponse::kPrompt:
      response->mutable_prompt()->MergeFrom(event.prompt());
      break;
    case v1::GenerateResponse::kDelta: {
      v1::Choice* choice = ChoiceAt(event.delta().index(), response);
      choice->mutable_text()->append(event.delta().text());
      choice->mutable_token_ids()->MergeFrom(event.delta().token_ids());
      choice->mutable_tokens()->MergeFrom(event.delta().tokens());
      break;
    }
    case v1::GenerateResponse::kFinished:
      MergeFinished(event.finished(), ChoiceAt(event.finished().index(), response));
      break;
    case v1::GenerateResponse::kSummary:
      *response->mutable_usage() = event.summary().usage();
      if (event.summary().has_timing()) *response->mutable_timing() = event.summary().timing();
      break;
    case v1::GenerateResponse::kProgress:
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
}

}  // namespace dunlin::gateway
