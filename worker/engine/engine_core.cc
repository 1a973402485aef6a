#include "worker/engine/engine_core.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "worker/engine/check_sequence.h"

namespace dunlin::worker {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(1);

int32_t DivideUp(int32_t n, int32_t by) { return n / by + (n % by != 0 ? 1 : 0); }

kv::KvOptions KvOptionsOf(const EngineOptions& options, const RunnerInfo& info, int max_model_len) {
  kv::KvOptions kv;
  kv.num_pages = info.num_pages;
  kv.page_tokens = info.page_tokens;
  kv.max_sequences = options.max_num_seqs;
  kv.max_pages_per_sequence = DivideUp(max_model_len, info.page_tokens);
  kv.prefix_caching = false;  // runners carry out no page moves
  return kv;
}

SchedulerLimits LimitsOf(const EngineOptions& options, const RunnerInfo& info) {
  SchedulerLimits limits;
  limits.max_running = options.max_num_seqs;
  limits.max_rows = std::min(options.max_num_batched_tokens, info.max_rows);
  return limits;
}

TokenLogprob LogprobOf(const kernels::SampleResult& r) { return {r.logprob, r.rank, r.top_ids, r.top_logprobs}; }

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Create(const EngineOptions& options, ModelRunner* runner,
                                                               const Clock* clock, EngineObserver* observer) {
  const RunnerInfo& info = runner->info();
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
  if (!std::is_sorted(options.end_of_generation.begin(), options.end_of_generation.end())) {
    return absl::InvalidArgumentError("end_of_generation: not ascending");
  }
  for (const int32_t id : options.end_of_generation) {
    if (id >= 0 && id < info.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("end_of_generation: token id ", id, " is outside the vocabulary of ", info.vocab_size, " tokens"));
  }
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
      kv_(kv::KvStore::Create(KvOptionsOf(options, runner->info(), max_model_len))),
      scheduler_(LimitsOf(options, runner->info())),
      builder_(scheduler_.limits().max_rows, options.max_num_seqs, static_cast<size_t>(runner->info().num_pages),
               runner->info().page_tokens) {
  const auto sequences = static_cast<size_t>(options.max_num_seqs);
  running_.reserve(sequences);
  running_view_.reserve(sequences);
  planned_.reserve(sequences);
  rows_.reserve(sequences);
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
  s->prompt_tokens = static_cast<int32_t>(s->request.prompt.size());
  s->arrival = arrival;
  s->last_look = arrival;
  const int64_t wanted = static_cast<int64_t>(s->prompt_tokens) + s->request.max_tokens;
  s->limit_tokens = static_cast<int32_t>(std::min<int64_t>(wanted, max_model_len_));
  s->at_limit = wanted > max_model_len_ ? FinishCause::kContextFull : FinishCause::kLength;
  // The last token is never fed back, so it needs no room.
  s->worst_case_pages = DivideUp(std::max(s->prompt_tokens, s->limit_tokens - 1), runner_->info().page_tokens);
  waiting_.push_back(std::move(s));
  if (stats_.lost_device) FailAll(absl::UnavailableError("the worker has lost its device"));
}

bool EngineCore::Prepare() {
  Reap(clock_->Now());
  Admit(clock_->Now());
  if (BuildBatch()) return true;
  rate_start_ = absl::InfinitePast();
  stats_.decode_tokens_per_second = 0;
  return false;
}

void EngineCore::Execute() {
  const StepBatch& batch = builder_.Finish();
  const absl::Time begin = clock_->Now();
  if (absl::Status status = runner_->Step(batch, &result_); !status.ok()) {
    stats_.lost_device = true;
    FailAll(absl::UnavailableError(absl::StrCat("the worker has lost its device: ", status.ToString())));
    kv_->EndStep();
    kv_->Flush();
    return;
  }
  CHECK_EQ(result_.outputs.size(), batch.output_rows.size());
  const absl::Time now = clock_->Now();
  ++stats_.steps;
  stats_.kv_saturated_values += static_cast<uint64_t>(result_.kv_saturated_values);
  stats_.prompt_tokens += static_cast<uint64_t>(batch.num_prefill_rows);
  const int decode_rows = batch.num_rows() - batch.num_prefill_rows;
  CountDecoded(decode_rows, now);
  if (observer_ != nullptr) observer_->OnStep(batch.num_prefill_rows, decode_rows, result_, now - begin);
  Absorb(now);
}

std::optional<EngineCore::Verdict> EngineCore::Judge(Sequence* s, absl::Time now) const {
  if (s->request.stream->cancelled()) return Verdict{FinishCause::kCancelled, absl::CancelledError("cancelled")};
  s->last_look = now;
  if (now >= s->request.deadline) {
    return Verdict{FinishCause::kError, absl::DeadlineExceededError(absl::StrCat(
                                            "the deadline passed after ", s->num_generated(), " generated tokens"))};
  }
  if (now - s->arrival >= s->request.max_time) return Verdict{FinishCause::kMaxTime, absl::OkStatus()};
  if (s->paused && now - s->paused_since >= options_.reader_stall_limit) {
    return Verdict{FinishCause::kError,
                   absl::ResourceExhaustedError(absl::StrCat(
                       "the reader took nothing for ", absl::FormatDuration(now - s->paused_since), " with ",
                       s->request.stream->unread_bytes(), " bytes unread (limits: ",
                       absl::FormatDuration(options_.reader_stall_limit), ", ", options_.max_unread_bytes, " bytes)"))};
  }
  return std::nullopt;
}

void EngineCore::Reap(absl::Time now) {
  for (auto& s : running_) {
    const bool slow = s->request.stream->unread_bytes() > options_.max_unread_bytes;
    if (slow && !s->paused) s->paused_since = now;
    s->paused = slow;
  }
  const auto ends = [&](const std::unique_ptr<Sequence>& s) {
    std::optional<Verdict> verdict = Judge(s.get(), now);
    if (!verdict.has_value()) return false;
    End(s.get(), *std::move(verdict));
    return true;
  };
  num_left_queue_ += std::erase_if(waiting_, ends);
  std::erase_if(running_, ends);
}

int32_t EngineCore::FreePages() const {
  int32_t free = kv_->AvailablePages();
  for (const auto& s : running_) {
    free -= s->worst_case_pages - static_cast<int32_t>(kv_->PageTable(*s->kv).size());
  }
  CHECK_GE(free, 0) << "more pages promised than there are";
  return free;
}

void EngineCore::Admit(absl::Time now) {
  if (waiting_.empty()) return;
  const size_t look = std::min(waiting_.size(), static_cast<size_t>(scheduler_.limits().lookahead));
  waiting_view_.clear();
  for (size_t i = 0; i < look; ++i) waiting_view_.push_back({waiting_[i]->worst_case_pages, waiting_[i]->times_passed});
  scheduler_.PlanAdmission(waiting_view_, static_cast<int>(running_.size()), FreePages(), &admitted_);
  if (admitted_.empty()) return;
  for (const int32_t index : admitted_) {
    std::unique_ptr<Sequence>& s = waiting_[static_cast<size_t>(index)];
    Open(s.get(), now);
    running_.push_back(std::move(s));
  }
  for (int32_t i = 0; i < admitted_.back(); ++i) {
    if (waiting_[static_cast<size_t>(i)] != nullptr) ++waiting_[static_cast<size_t>(i)]->times_passed;
  }
  num_left_queue_ += std::erase(waiting_, nullptr);
  DropFinished();
}

void EngineCore::Open(Sequence* s, absl::Time now) {
  NewSequence& r = s->request;
  s->admitted = now;
  s->tokens.reserve(static_cast<size_t>(s->limit_tokens));
  s->tokens = r.prompt;
  std::vector<int32_t> ending = r.stop_tokens;
  if (!r.ignore_eos) ending.insert(ending.end(), options_.end_of_generation.begin(), options_.end_of_generation.end());
  s->sampler.emplace(r.sampling, r.prompt, s->limit_tokens - s->prompt_tokens, r.min_tokens, ending, r.num_logprobs);
  // Judging the prompt needs the rows of all of it.
  const bool read = r.cache_read && !s->judges_prompt();
  const kv::MatchResult match = kv_->Match(r.cache_namespace, r.prompt, {.read = read, .restore = false});
  s->kv = match.sequence;
  s->cached_prompt_tokens = match.matched_tokens;
  s->num_computed = s->cached_prompt_tokens;
  if (read) stats_.prefix_query_tokens += static_cast<uint64_t>(s->prompt_tokens);
  stats_.prefix_hit_tokens += static_cast<uint64_t>(s->cached_prompt_tokens);
  r.stream->PushScheduled(static_cast<uint32_t>(s->cached_prompt_tokens));
  if (observer_ != nullptr) observer_->OnScheduled(now - s->arrival);
}

bool EngineCore::BuildBatch() {
  running_view_.clear();
  for (const auto& s : running_) {
    running_view_.push_back({s->remaining_tokens(), s->num_generated() > 0 && s->remaining_tokens() == 1, s->paused});
  }
  scheduler_.PlanRows(running_view_, stats_.steps, &rows_);
  builder_.Clear();
  planned_.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i] > 0) AddToBatch(running_[i].get(), rows_[i]);
  }
  return !planned_.empty();
}

void EngineCore::AddToBatch(Sequence* s, int32_t num_rows) {
  const int32_t end = s->num_computed + num_rows;
  const kv::ReserveOutcome outcome = kv_->Reserve(*s->kv, s->num_computed, end);
  CHECK_EQ(outcome, kv::ReserveOutcome::kGranted) << "a promised page is missing";
  const std::span<const int32_t> pages = kv_->PageTable(*s->kv);
  s->pages_peak = std::max(s->pages_peak, static_cast<int32_t>(pages.size()));
  builder_.AddSequence(
      std::span(s->tokens).subspan(static_cast<size_t>(s->num_computed), static_cast<size_t>(num_rows)),
      s->num_computed, pages, s->num_generated() == 0);
  Planned planned{s, num_rows, 0, false};
  if (s->judges_prompt()) {
    for (int32_t p = s->num_computed; p < end && p + 1 < s->prompt_tokens; ++p) {
      builder_.AddOutput(p - s->num_computed,
                         JudgeToken(s->tokens[static_cast<size_t>(p) + 1], p + 1, s->request.num_prompt_logprobs));
      ++planned.num_judged;
    }
  }
  if (s->request.max_tokens > 0 && end == static_cast<int32_t>(s->tokens.size())) {
    builder_.AddOutput(num_rows - 1, s->sampler->Next(end));
    planned.draws = true;
  }
  planned_.push_back(planned);
}

void EngineCore::Absorb(absl::Time now) {
  int32_t rows = 0;
  for (const Planned& p : planned_) rows += p.num_rows;
  const double bytes_per_row = static_cast<double>(result_.traffic.weight_bytes + result_.traffic.kv_read_bytes) / rows;
  size_t output = 0;
  for (const Planned& p : planned_) {
    p.sequence->bytes_read += bytes_per_row * p.num_rows;
    AbsorbSequence(p, output, now);
    output += static_cast<size_t>(p.num_judged) + (p.draws ? 1 : 0);
  }
  CHECK_EQ(output, result_.outputs.size());
  kv_->EndStep();
  DropFinished();
}

void EngineCore::AbsorbSequence(const Planned& p, size_t first_output, absl::Time now) {
  Sequence* const s = p.sequence;
  const int32_t page_tokens = runner_->info().page_tokens;
  const bool fills_page = s->num_computed / page_tokens != (s->num_computed + p.num_rows) / page_tokens;
  s->num_computed += p.num_rows;
  if (s->request.cache_write && fills_page) {
    kv_->Publish(*s->kv, std::span(s->tokens).first(static_cast<size_t>(s->num_computed)));
  }
  for (int32_t i = 0; i < p.num_judged; ++i) {
    s->request.stream->PushPromptLogprob(LogprobOf(result_.outputs[first_output + static_cast<size_t>(i)]));
  }
  if (p.draws) {
    AppendToken(s, result_.outputs[first_output + static_cast<size_t>(p.num_judged)], now);
  } else {
    s->request.stream->PushProgress(static_cast<uint32_t>(s->num_computed));
  }
}

void EngineCore::AppendToken(Sequence* s, const kernels::SampleResult& output, absl::Time now) {
  const int32_t token = output.token;
  CHECK(token >= 0 && token < runner_->info().vocab_size) << "the runner drew token " << token;
  const bool may_end = !s->sampler->below_min_tokens();
  s->tokens.push_back(token);
  s->sampler->Append(token);
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
    s->request.stream->PushToken(token, &logprob);
  } else {
    s->request.stream->PushToken(token, nullptr);
  }
  if (may_end && EndsGeneration(*s, token)) {
    End(s, {FinishCause::kEos, absl::OkStatus()});
  } else if (may_end && std::find(s->request.stop_tokens.begin(), s->request.stop_tokens.end(), token) !=
                            s->request.stop_tokens.end()) {
    End(s, {FinishCause::kStopToken, absl::OkStatus()}, token);
  } else if (static_cast<int32_t>(s->tokens.size()) == s->limit_tokens) {
    End(s, {s->at_limit, absl::OkStatus()});
  }
}

bool EngineCore::EndsGeneration(const Sequence& s, int32_t token) const {
  return !s.request.ignore_eos &&
         std::binary_search(options_.end_of_generation.begin(), options_.end_of_generation.end(), token);
}

// Drops the sequences that ended in this step, and ends those that have nothing to generate and nothing left to judge.
void EngineCore::DropFinished() {
  std::erase_if(running_, [this](const std::unique_ptr<Sequence>& s) {
    if (s->kv.has_value() && s->request.max_tokens == 0 && s->remaining_tokens() <= 0) {
      End(s.get(), {s->at_limit, absl::OkStatus()});
    }
    return !s->kv.has_value();
  });
}

void EngineCore::End(Sequence* s, Verdict verdict, int32_t stop_token) {
  const absl::Time now = clock_->Now();
  const bool was_admitted = s->kv.has_value();
  if (was_admitted) kv_->Release(*std::exchange(s->kv, std::nullopt));
  if (verdict.cause == FinishCause::kCancelled && observer_ != nullptr) {
    // Without the caller's word, since the engine last saw it uncancelled: never less than the truth.
    const absl::Time since = std::min(s->request.stream->cancel_time(), now);
    const bool told = s->request.stream->cancel_time() != absl::InfiniteFuture();
    observer_->OnCancelToFree(now - (told ? since : s->last_look));
  }
  SequenceEnd end;
  end.cause = verdict.cause;
  end.stop_token = stop_token;
  end.status = std::move(verdict.status);
  end.prompt_tokens = static_cast<uint32_t>(s->prompt_tokens);
  end.cached_prompt_tokens = static_cast<uint32_t>(s->cached_prompt_tokens);
  const int32_t generated = s->num_generated();
  end.completion_tokens = static_cast<uint32_t>(generated);
  SequenceTiming& t = end.timing;
  t.queue = (was_admitted ? s->admitted : now) - s->arrival;
  if (was_admitted) t.prefill = (generated > 0 ? s->first_token : now) - s->admitted;
  if (generated > 0) {
    t.ttft = s->first_token - s->arrival;
    t.decode = now - s->first_token;
    t.itl_p50 = s->itl.Percentile(0.5);
    t.itl_p99 = s->itl.Percentile(0.99);
    t.itl_max = s->itl.max();
  }
  t.kv_pages_peak = static_cast<uint32_t>(s->pages_peak);
  t.bytes_read = static_cast<uint64_t>(s->bytes_read);
  ended_.push_back({s->request.stream, std::move(end)});
}

void EngineCore::FailAll(const absl::Status& status) {
  for (auto& s : waiting_) End(s.get(), {FinishCause::kError, status});
  for (auto& s : running_) End(s.get(), {FinishCause::kError, status});
  num_left_queue_ += waiting_.size();
  waiting_.clear();
  running_.clear();
}

void EngineCore::DeliverEnds() {
  for (Ended& e : ended_) e.stream->PushEnd(std::move(e.end));
  ended_.clear();
}

void EngineCore::CountDecoded(int num_tokens, absl::Time now) {
  if (rate_start_ == absl::InfinitePast()) {
    rate_start_ = now;
    rate_tokens_ = 0;
    return;
  }
  rate_tokens_ += num_tokens;
  const absl::Duration elapsed = now - rate_start_;
  if (elapsed < kRateWindow) return;
  stats_.decode_tokens_per_second = rate_tokens_ / absl::ToDoubleSeconds(elapsed);
  rate_start_ = now;
  rate_tokens_ = 0;
}

}  // namespace dunlin::worker
