#include "worker/engine/engine_core.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/check_sequence.h"

namespace dunlin::worker {
namespace {

RowLimits LimitsOf(const EngineOptions& options, const RunnerInfo& info) {
  RowLimits limits;
  limits.max_rows = std::min(options.max_num_batched_tokens, info.max_rows);
  limits.page_tokens = info.page_tokens;
  return limits;
}

absl::Status CheckOptions(const EngineOptions& options, const RunnerInfo& info) {
  const int max_rows = std::min(options.max_num_batched_tokens, info.max_rows);
  if (options.max_num_seqs < 1 || options.max_num_seqs > max_rows) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_seqs: ", options.max_num_seqs, " is outside [1, ", max_rows,
                                                   "], the tokens of one step (max_num_batched_tokens ",
                                                   options.max_num_batched_tokens, ", the runner's ", info.max_rows,
                                                   ")"));
  }
  if (options.inbox_capacity < 1) {
    return absl::InvalidArgumentError(absl::StrCat("inbox_capacity: ", options.inbox_capacity, " is below 1"));
  }
  if (options.num_scheduler_steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_scheduler_steps: ", options.num_scheduler_steps, " is below 1"));
  }
  if (options.num_speculative_tokens < 0 || options.num_speculative_tokens > kMaxDraftTokens) {
    return absl::InvalidArgumentError(absl::StrCat("num_speculative_tokens: ", options.num_speculative_tokens,
                                                   " is outside [0, ", kMaxDraftTokens, "]"));
  }
  if (options.inter_token_target < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("inter_token_target: ", absl::FormatDuration(options.inter_token_target), " is below 0"));
  }
  if (!std::is_sorted(options.end_of_generation.begin(), options.end_of_generation.end())) {
    return absl::InvalidArgumentError("end_of_generation: not ascending");
  }
  for (const int32_t id : options.end_of_generation) {
    if (id >= 0 && id < info.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("end_of_generation: token id ", id, " is outside the vocabulary of ", info.vocab_size, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Create(const EngineOptions& options, ModelRunner* runner,
                                                               const Clock* clock, EngineObserver* observer) {
  const RunnerInfo& info = runner->info();
  if (absl::Status status = CheckOptions(options, info); !status.ok()) return status;
  // A sequence that cannot be admitted into an empty pool would wait for ever.
  const int64_t pool_tokens = static_cast<int64_t>(info.num_pages) * info.page_tokens;
  const auto max_model_len = static_cast<int>(std::min<int64_t>(info.max_model_len, pool_tokens));
  if (max_model_len < 2) {
    return absl::InvalidArgumentError(absl::StrCat("the runner has room for ", max_model_len, " tokens"));
  }
  return std::unique_ptr<EngineCore>(new EngineCore(options, max_model_len, runner, clock, observer));
}

EngineCore::EngineCore(const EngineOptions& options, int max_model_len, ModelRunner* runner, const Clock* clock,
                       EngineObserver* observer)
    : options_(options),
      max_model_len_(max_model_len),
      runner_(runner),
      clock_(clock),
      observer_(observer),
      pages_(options, max_model_len, runner, clock),
      planner_(LimitsOf(options, runner->info())),
      builder_(planner_.limits().max_rows, options.max_num_seqs, runner->info().page_tokens),
      drafter_(options_, planner_.limits().max_rows),
      waiting_(&tenants_),
      last_look_(clock->Now()),
      victims_(options.max_num_seqs, runner->info().num_pages),
      in_flight_(options.max_num_seqs) {
  const auto sequences = static_cast<size_t>(options.max_num_seqs);
  running_.reserve(sequences);
  views_.reserve(sequences);
  plan_.reserve(sequences);
  rows_.reserve(sequences);
  step_.planned.reserve(sequences);
  decoders_.reserve(sequences);
}

EngineCore::~EngineCore() {
  FailAll(absl::UnavailableError("the worker is shutting down"));
  DeliverEnds();
}

absl::Status EngineCore::Check(const NewSequence& sequence) const {
  return CheckSequence(sequence, runner_->info().vocab_size, max_model_len_);
}

void EngineCore::Add(NewSequence request, absl::Time arrival) {
  auto s = std::make_unique<Sequence>();
  s->request = std::move(request);
  s->tokens = std::move(s->request.prompt);
  s->prompt_tokens = s->num_tokens();
  s->stream = s->request.stream.get();
  s->generates = s->request.max_tokens > 0;
  s->judges_prompt = s->request.num_prompt_logprobs >= 0;
  s->arrival = arrival;
  s->number = ++arrivals_;
  s->tenant = tenants_.Acquire(s->request.tenant);
  const int64_t wanted = static_cast<int64_t>(s->prompt_tokens) + s->request.max_tokens;
  s->limit_tokens = static_cast<int32_t>(std::min<int64_t>(wanted, max_model_len_));
  s->at_limit = wanted > max_model_len_ ? FinishCause::kContextFull : FinishCause::kLength;
  s->due = std::min(s->request.deadline, arrival + s->request.max_time);
  checked_idle_ = false;
  waiting_.Add(std::move(s));
  if (stats_.lost_device) FailAll(absl::UnavailableError("the worker has lost its device"));
}

bool EngineCore::Prepare() {
  Reap(clock_->Now());
  const size_t running = running_.size();
  Admit(clock_->Now());
  if (!in_flight_.empty()) return PrepareAhead();
  needs_result_ = false;
  if (!runs_ahead() && decodes_only_ && running_.size() == running && DecodeAgain()) {
    ++stats_.plans;
    return true;
  }
  if (!running_.empty()) {
    PlanRows();
    ClaimRows();
    ReserveRows();
    DraftRows();
    if (BuildBatch()) return true;
  }
  decode_rate_.Stop();
  ReportCacheEvents();
  if (idle()) WhenIdle();
  return false;
}

void EngineCore::Execute() {
  if (runs_ahead()) return ExecuteAhead();
  for (int step = 1; RunStep(); ++step) {
    if (step == options_.num_scheduler_steps || !GoOnDecoding()) return;
  }
}

}  // namespace dunlin::worker
