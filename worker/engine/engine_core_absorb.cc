// The end of a step: running the batch, and what its outputs mean for each sequence.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/check.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {
namespace {

TokenLogprob LogprobOf(const kernels::SampleResult& r) { return {r.logprob, r.rank, r.top_ids, r.top_logprobs}; }

}  // namespace

bool EngineCore::RunStep() {
  DescribeStep();
  if (absl::Status status = runner_->Step(builder_.Finish(), &result_); !status.ok()) {
    pages_.FailStep();
    LoseDevice(status);
    return false;
  }
  const absl::Time now = clock_->Now();
  CountStep(now - step_.begin);
  Absorb(now);
  return true;
}

// What of the batch is needed when its result is there.
void EngineCore::DescribeStep() {
  const StepBatch& batch = builder_.Finish();
  step_.num_rows = batch.num_rows();
  step_.num_prefill_rows = batch.num_prefill_rows;
  step_.num_outputs = batch.output_rows.size();
  step_.begin = clock_->Now();
  stats_.predicted_step_seconds = absl::ToDoubleSeconds(step_time_.Predict(step_.num_rows, step_.context));
}

// The step is over; it took `wall`, or kept the one after it waiting for so long.
void EngineCore::CountStep(absl::Duration wall) {
  CHECK_EQ(result_.outputs.size(), step_.num_outputs);
  ++stats_.steps;
  stats_.kv_saturated_values += static_cast<uint64_t>(result_.kv_saturated_values);
  const int decode_rows = step_.num_rows - step_.num_prefill_rows;
  step_time_.Observe(step_.num_rows, step_.context, wall);
  if (step_.num_prefill_rows >= decode_rows) pages_.restore_policy().OnPrefill(step_.num_rows, wall);
  predictor_.OnStep();
  if (observer_ != nullptr) observer_->OnStep(step_.num_prefill_rows, decode_rows, result_, wall);
  const double bytes = static_cast<double>(result_.traffic.weight_bytes + result_.traffic.kv_read_bytes);
  for (const Planned& p : step_.planned) {
    if (p.sequence != nullptr) p.sequence->bytes_read += bytes / step_.num_rows * p.num_rows;
  }
}

// The sequence's rows are computed, or will be before anything that is submitted from now on.
void EngineCore::AdvanceSequence(Planned* p) {
  Sequence* const s = p->sequence;
  ++s->steps_in_flight;
  s->unknown_tokens += p->num_draws > 0 ? 1 : 0;
  s->num_judged += p->num_judged;
  p->is_news = AdvanceRows(s, p->num_rows - static_cast<int32_t>(s->draft.size()));
}

void EngineCore::AbsorbSequence(const Planned& p, size_t first_output, absl::Time now) {
  Sequence* const s = p.sequence;
  --s->steps_in_flight;
  for (int32_t i = 0; i < p.num_judged; ++i) {
    s->stream->PushPromptLogprob(LogprobOf(result_.outputs[first_output + static_cast<size_t>(i)]));
  }
  if (p.num_draws == 0) {
    if (p.is_news) s->stream->PushProgress(static_cast<uint32_t>(p.first + p.num_rows));
    return;
  }
  const auto drafted = static_cast<int32_t>(s->draft.size());
  s->draft_tokens += drafted;
  stats_.draft_tokens += static_cast<uint64_t>(drafted);
  stats_.drafts += drafted > 0 ? 1 : 0;
  const auto outputs = std::span<const kernels::SampleResult>(result_.outputs)
                           .subspan(first_output + static_cast<size_t>(p.num_judged), static_cast<size_t>(p.num_draws));
  --s->unknown_tokens;
  AppendToken(s, outputs[0], now);
  if (drafted > 0) AbsorbDraft(s, outputs, now);
  // The row of the token is in flight already: if it fills a page, that can be published only now.
  const bool fills_page = s->num_computed >= s->num_tokens() && s->num_tokens() % pages_.page_tokens() == 0;
  if (s->kv.has_value() && s->request.cache_write && fills_page) pages_.Publish(s);
}

// What the step brought, to those of its sequences that are still there.
void EngineCore::Absorb(absl::Time now) {
  const uint64_t void_before = stats_.draft_tokens - stats_.accepted_draft_tokens;
  int decode_rows = step_.num_rows - step_.num_prefill_rows;
  size_t output = 0;
  for (Planned& p : step_.planned) {
    if (p.sequence == nullptr) {
      decode_rows -= p.decodes ? p.num_rows : 0;
    } else {
      if (!runs_ahead()) AdvanceSequence(&p);
      AbsorbSequence(p, output, now);
    }
    output += static_cast<size_t>(p.num_judged + p.num_draws);
  }
  CHECK_EQ(output, result_.outputs.size());
  if (!runs_ahead()) pages_.EndStep();
  DropFinished();
  const uint64_t void_rows = stats_.draft_tokens - stats_.accepted_draft_tokens - void_before;
  decode_rate_.Add(decode_rows - static_cast<int>(void_rows), now);
  ReportCacheEvents();
}

// The sequence's next `num_rows` tokens are in its pages. True when some of them never were before.
bool EngineCore::AdvanceRows(Sequence* s, int32_t num_rows) {
  const int page_tokens = pages_.page_tokens();
  const bool fills_page = s->num_computed / page_tokens != (s->num_computed + num_rows) / page_tokens;
  const bool is_news = CountRows(s, num_rows);
  s->num_computed += num_rows;
  if (s->request.cache_write && fills_page) pages_.Publish(s);
  return is_news;
}

// Tells rows computed for the first time from those that a preemption made necessary again. True when there are any of
// the former.
bool EngineCore::CountRows(Sequence* s, int32_t num_rows) {
  const int32_t end = s->num_computed + num_rows;
  const int32_t again = std::clamp(s->num_once_computed - s->num_computed, 0, num_rows);
  stats_.recomputed_tokens += static_cast<uint64_t>(again);
  stats_.prompt_tokens += static_cast<uint64_t>(std::max(0, std::min(end, s->prompt_tokens) - s->num_computed - again));
  s->num_once_computed = std::max(s->num_once_computed, end);
  return again < num_rows;
}

void EngineCore::AppendToken(Sequence* s, const kernels::SampleResult& output, absl::Time now) {
  const int32_t token = output.token;
  CHECK(token >= 0 && token < runner_->info().vocab_size) << "the runner drew token " << token;
  const bool may_end = !s->sampler->below_min_tokens();
  s->tokens.push_back(token);
  s->sampler->Append(token);
  if (s->lookup.has_value()) s->lookup->Append(s->tokens);
  tenants_.ChargeOutput(s->tenant, 1);
  ++stats_.generated_tokens;
  if (s->num_generated() == 1) {
    s->first_token = now;
    if (observer_ != nullptr) observer_->OnFirstToken(now - s->arrival);
  } else {
    s->itl.Add(now - s->last_token);
    if (observer_ != nullptr) observer_->OnInterTokenLatency(now - s->last_token);
  }
  s->last_token = now;
  if (s->request.num_logprobs >= 0) {
    const TokenLogprob logprob = LogprobOf(output);
    s->stream->PushToken(token, &logprob);
  } else {
    s->stream->PushToken(token, nullptr);
  }
  if (may_end && EndsGeneration(*s, token, options_)) {
    End(s, {FinishCause::kEos, absl::OkStatus()});
  } else if (may_end && IsStopToken(*s, token)) {
    End(s, {FinishCause::kStopToken, absl::OkStatus()}, token);
  } else if (s->num_tokens() == s->limit_tokens) {
    End(s, {s->at_limit, absl::OkStatus()});
  }
}

// Drops the sequences that ended, and ends those that have nothing to generate and nothing left to judge.
void EngineCore::DropFinished() {
  std::erase_if(running_, [this](const std::unique_ptr<Sequence>& s) {
    if (s->kv.has_value() && !s->generates && s->remaining_tokens() <= 0 && s->steps_in_flight == 0) {
      End(s.get(), {s->at_limit, absl::OkStatus()});
    }
    return !s->kv.has_value();
  });
}

}  // namespace dunlin::worker
