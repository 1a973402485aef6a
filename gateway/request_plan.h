// What one validated request means once its prompt and a worker are known: effective values, and the worker's request.
// Thread-safety: plain data and pure functions.  Errors: none (everything was validated before).  Source: ours.
#ifndef DUNLIN_GATEWAY_REQUEST_PLAN_H_
#define DUNLIN_GATEWAY_REQUEST_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "dunlin/v1/inference.pb.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "gateway/tenants.h"

namespace dunlin::gateway {

// A model card's own sampling values, used where a request leaves them unset.
struct SamplingDefaults {
  float temperature = 1.0f;
  float top_p = 1.0f;
};
// general_name and architecture: as the model file says; "" when it does not.
SamplingDefaults DefaultsForModel(absl::string_view general_name, absl::string_view architecture);

struct RequestPlan {
  std::string request_id;
  std::string model;
  std::string worker_id;
  std::vector<uint32_t> prompt_ids;
  v1::Sampling sampling;  // every scalar set, except penalty_last_n unset = all
  v1::Stopping stopping;  // every scalar set, except max_time_ms unset = none
  v1::Output output;
  v1::Cache cache;
  v1::Speculation speculation;
  Caller caller;
  bool dry_run = false;
  bool context_bounds_length = false;  // running out of max_tokens is CONTEXT_FULL, not LENGTH
  uint32_t queue_position = 0;
  uint32_t num_choices = 1;

  uint64_t SeedOfChoice(uint32_t index) const { return sampling.seed() + index; }
  bool wants_prompt() const { return output.echo() || output.has_prompt_logprobs(); }
  // Nothing has to be computed: the gateway can answer alone.
  bool needs_worker() const { return !dry_run && (stopping.max_tokens() > 0 || output.has_prompt_logprobs()); }
};

// context_tokens must exceed prompt_ids.size(). random_seed is used when the request brings none.
RequestPlan MakePlan(const v1::GenerateRequest& request, const SamplingDefaults& defaults, uint64_t random_seed,
                     std::vector<uint32_t> prompt_ids, uint32_t context_tokens);

// waited: time since the request arrived, taken off max_time_ms.
worker::v1::GenerateRequest ToWorkerRequest(const RequestPlan& plan, absl::Duration waited);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_REQUEST_PLAN_H_
