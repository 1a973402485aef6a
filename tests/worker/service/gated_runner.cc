#include "tests/worker/service/gated_runner.h"

#include <algorithm>

#include "absl/status/status.h"

namespace dunlin::testing {

GatedRunner::GatedRunner(int64_t steps) : allowed_(steps) {
  info_.device = "fake";
  info_.isa = "none";
  info_.vocab_size = kVocab;
  info_.max_model_len = kMaxModelLen;
  info_.page_tokens = kPageTokens;
  info_.num_pages = 1024;
  info_.page_bytes = 1024;
  info_.max_rows = 256;
  info_.threads = 1;
}

absl::Status GatedRunner::Step(const worker::StepBatch& batch, worker::StepResult* result) {
  {
    MutexLock lock(&mu_);
    ++begun_;
    changed_.SignalAll();
    while (allowed_ <= 0 && !lost_) changed_.Wait(&mu_);
    if (lost_) return absl::UnavailableError("the fake device is gone");
    --allowed_;
  }
  result->outputs.resize(batch.output_rows.size());
  for (size_t i = 0; i < batch.output_rows.size(); ++i) {
    const kernels::SampleParams& params = batch.sample_params[i];
    const uint64_t token = static_cast<uint64_t>(batch.token_ids[static_cast<size_t>(batch.output_rows[i])]);
    const uint64_t shift = params.temperature > 0 ? params.seed % kVocab : 0;
    kernels::SampleResult& out = result->outputs[i];
    out.token = params.forced_token >= 0 ? params.forced_token : static_cast<int32_t>((token + 1 + shift) % kVocab);
    out.logprob = -0.5f;
    out.rank = 1;
    const size_t top = static_cast<size_t>(std::max(0, params.num_top));
    out.top_ids.assign(top, out.token);
    out.top_logprobs.assign(top, -0.5f);
  }
  result->traffic = {1000, 100, 10, 1};
  result->device_time = absl::Microseconds(10);
  result->kv_saturated_values = 0;
  return absl::OkStatus();
}

void GatedRunner::Allow(int64_t steps) {
  MutexLock lock(&mu_);
  allowed_ = std::min(allowed_ + steps, std::numeric_limits<int64_t>::max() / 2);
  changed_.SignalAll();
}

void GatedRunner::Lose() {
  MutexLock lock(&mu_);
  lost_ = true;
  changed_.SignalAll();
}

void GatedRunner::WaitForSteps(int64_t steps) {
  MutexLock lock(&mu_);
  while (begun_ < steps) changed_.Wait(&mu_);
}

}  // namespace dunlin::testing
