#include "worker/runners/fake_runner.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/check.h"

namespace dunlin::worker {
namespace {

constexpr uint64_t kEmptyPrefix = 0x9E3779B97F4A7C15u;
constexpr float kLikeliestLogit = 10.0f;  // every other logit is in [0, 8)

// The finaliser of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t Extend(uint64_t prefix_hash, int32_t token) {
  return Mix(prefix_hash + Mix(static_cast<uint64_t>(token) + 1));
}

bool IsPlainGreedy(const kernels::SampleParams& p) {
  return p.forced_token < 0 && p.num_top < 0 && p.temperature == 0.0f && p.penalty_tokens.empty() && p.biases.empty() &&
         p.allowed.empty() && p.banned.empty();
}

}  // namespace

FakeRunner::FakeRunner(FakeRunnerOptions options) : options_(std::move(options)) {
  CHECK_GE(options_.vocab_size, 2);
  CHECK_GE(options_.page_tokens, 1);
  CHECK_GE(options_.num_pages, 1);
  info_.device = "fake";
  info_.isa = "none";
  info_.vocab_size = options_.vocab_size;
  info_.max_model_len = options_.max_model_len;
  info_.page_tokens = options_.page_tokens;
  info_.num_pages = options_.num_pages;
  info_.page_bytes = options_.page_bytes;
  info_.max_rows = options_.max_rows;
  info_.threads = 1;
  info_.weight_bytes = options_.weight_bytes;
  info_.host_slots = options_.host_slots;
  info_.max_steps_in_flight = options_.max_steps_in_flight;
  slots_.resize(static_cast<size_t>(options_.num_pages) * static_cast<size_t>(options_.page_tokens));
  records_.resize(static_cast<size_t>(options_.host_slots) * static_cast<size_t>(options_.page_tokens));
  row_prefix_hash_.resize(static_cast<size_t>(options_.max_rows));
  CHECK(options_.max_steps_in_flight >= 1 && options_.max_steps_in_flight <= 2) << options_.max_steps_in_flight;
  if (options_.max_steps_in_flight == 1) return;
  const int table = (options_.max_model_len + options_.page_tokens - 1) / options_.page_tokens;
  for (HeldStep& s : held_)
    s.batch.page_ids.reserve(static_cast<size_t>(options_.max_rows) * static_cast<size_t>(table));
}

FakeRunner::Slot& FakeRunner::SlotAt(const kernels::SequenceSlice& sequence, int32_t position) {
  return Page(sequence.pages[position / options_.page_tokens])[static_cast<size_t>(position % options_.page_tokens)];
}

absl::Status FakeRunner::Step(const StepBatch& batch, StepResult* result) {
  CHECK_EQ(num_held_, 0u);
  return Run(batch, result);
}

absl::Status FakeRunner::Run(const StepBatch& batch, StepResult* result) {
  CHECK(batch.num_rows() > 0 && batch.num_rows() <= options_.max_rows) << batch.num_rows();
  CHECK_EQ(batch.positions.size(), batch.token_ids.size());
  CHECK_EQ(batch.sample_params.size(), batch.output_rows.size());
  if (options_.before_step) {
    if (absl::Status status = options_.before_step(batch); !status.ok()) return status;
  }
  ++step_;
  int32_t next_row = 0;
  for (const kernels::SequenceSlice& sequence : batch.sequences) {
    CHECK_EQ(sequence.first_row, next_row);
    CHECK_GT(sequence.num_rows, 0);
    CHECK_LE(sequence.context_tokens + sequence.num_rows, options_.max_model_len);
    next_row += sequence.num_rows;
    Append(batch, sequence);
  }
  CHECK_EQ(next_row, batch.num_rows());
  // Only when every row of the step is written: a write into another sequence's slot shows whichever came first.
  for (const kernels::SequenceSlice& sequence : batch.sequences) Verify(sequence);
  result->outputs.resize(batch.output_rows.size());
  for (size_t i = 0; i < batch.output_rows.size(); ++i) {
    const auto row = static_cast<size_t>(batch.output_rows[i]);
    Sample(row_prefix_hash_[row], batch.positions[row] + 1, batch.sample_params[i], &result->outputs[i]);
  }
  result->traffic = TrafficOf(batch);
  result->device_time = options_.device_time;
  result->kv_saturated_values = 0;
  return absl::OkStatus();
}

void FakeRunner::Append(const StepBatch& batch, const kernels::SequenceSlice& sequence) {
  uint64_t hash =
      sequence.context_tokens == 0 ? kEmptyPrefix : SlotAt(sequence, sequence.context_tokens - 1).prefix_hash;
  for (int32_t i = 0; i < sequence.num_rows; ++i) {
    const auto row = static_cast<size_t>(sequence.first_row + i);
    const int32_t position = sequence.context_tokens + i;
    const int32_t token = batch.token_ids[row];
    CHECK_EQ(batch.positions[row], position);
    CHECK(token >= 0 && token < options_.vocab_size) << token;
    hash = Extend(hash, token);
    row_prefix_hash_[row] = hash;
    Slot& slot = SlotAt(sequence, position);
    CHECK_NE(slot.written_in, step_) << "two rows of one step write position " << position << " of a page";
    slot = {token, position, hash, step_};
  }
}

void FakeRunner::Verify(const kernels::SequenceSlice& sequence) {
  uint64_t hash = kEmptyPrefix;
  for (int32_t position = 0; position < sequence.context_tokens + sequence.num_rows; ++position) {
    const Slot& slot = SlotAt(sequence, position);
    CHECK_EQ(slot.position, position) << "content oracle: another position's content in the slot";
    hash = Extend(hash, slot.token);
    CHECK_EQ(slot.prefix_hash, hash) << "content oracle: another sequence's content at position " << position;
    // Rows are written after their context: what was there before this step must not have been touched by it.
    CHECK_EQ(slot.written_in == step_, position >= sequence.context_tokens)
        << "content oracle: position " << position << " of the context was written in this step";
  }
}

int32_t FakeRunner::Likeliest(uint64_t prefix_hash, int32_t length) const {
  if (options_.next_token) return options_.next_token(prefix_hash, length);
  return static_cast<int32_t>(Mix(prefix_hash) % static_cast<uint64_t>(options_.vocab_size));
}

void FakeRunner::LogitsOf(uint64_t prefix_hash, int32_t length, std::vector<float>* logits) const {
  logits->resize(static_cast<size_t>(options_.vocab_size));
  for (int32_t t = 0; t < options_.vocab_size; ++t) {
    (*logits)[static_cast<size_t>(t)] = static_cast<float>(Extend(prefix_hash, t) >> 40) * (8.0f / (1 << 24));
  }
  (*logits)[static_cast<size_t>(Likeliest(prefix_hash, length))] = kLikeliestLogit;
}

void FakeRunner::Logits(std::span<const int32_t> prefix, std::vector<float>* logits) const {
  uint64_t hash = kEmptyPrefix;
  for (const int32_t t : prefix) hash = Extend(hash, t);
  LogitsOf(hash, static_cast<int32_t>(prefix.size()), logits);
}

void FakeRunner::Sample(uint64_t prefix_hash, int32_t length, const kernels::SampleParams& params,
                        kernels::SampleResult* out) {
  if (IsPlainGreedy(params)) {
    out->token = Likeliest(prefix_hash, length);
    out->logprob = 0.0f;
    out->rank = 0;
    out->top_ids.clear();
    out->top_logprobs.clear();
    return;
  }
  LogitsOf(prefix_hash, length, &logits_);
  kernels::SampleReference(logits_.data(), options_.vocab_size, params, out);
}

std::vector<int32_t> FakeRunner::Greedy(std::span<const int32_t> prompt, int count) const {
  uint64_t hash = kEmptyPrefix;
  for (const int32_t t : prompt) hash = Extend(hash, t);
  std::vector<int32_t> tokens;
  auto length = static_cast<int32_t>(prompt.size());
  for (int i = 0; i < count; ++i, ++length) {
    tokens.push_back(Likeliest(hash, length));
    hash = Extend(hash, tokens.back());
  }
  return tokens;
}

kernels::Traffic FakeRunner::TrafficOf(const StepBatch& batch) const {
  const uint64_t token_bytes = options_.page_bytes / static_cast<uint64_t>(options_.page_tokens);
  kernels::Traffic t;
  t.weight_bytes = options_.weight_bytes;
  t.kv_write_bytes = token_bytes * static_cast<uint64_t>(batch.num_rows());
  for (const kernels::SequenceSlice& s : batch.sequences) {
    t.kv_read_bytes += token_bytes * static_cast<uint64_t>(s.context_tokens + s.num_rows);
  }
  t.activation_bytes = static_cast<uint64_t>(batch.num_rows()) * sizeof(float);
  return t;
}

std::span<FakeRunner::Slot> FakeRunner::Page(int32_t page) {
  CHECK(page >= 0 && page < options_.num_pages) << "page " << page;
  const auto width = static_cast<size_t>(options_.page_tokens);
  return std::span(slots_).subspan(static_cast<size_t>(page) * width, width);
}

std::span<FakeRunner::Slot> FakeRunner::Record(int32_t host_slot) {
  CHECK(host_slot >= 0 && host_slot < options_.host_slots) << "host slot " << host_slot;
  const auto width = static_cast<size_t>(options_.page_tokens);
  return std::span(records_).subspan(static_cast<size_t>(host_slot) * width, width);
}

absl::Status FakeRunner::MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) {
  failed_pages->clear();
  if (absl::Status status = ExecuteAll(); !status.ok()) return status;
  if (options_.before_moves) {
    if (absl::Status status = options_.before_moves(moves); !status.ok()) return status;
  }
  for (const kv::PageMove& m : moves) {
    switch (m.kind) {
      case kv::PageMove::Kind::kCopy:
        std::ranges::copy(Page(m.from), Page(m.to).begin());
        break;
      case kv::PageMove::Kind::kSave:
        std::ranges::copy(Page(m.from), Record(m.to).begin());
        break;
      case kv::PageMove::Kind::kRestore:
        if (options_.damaged && options_.damaged(m.from)) {
          std::ranges::fill(Page(m.to), Slot{});  // whoever reads it all the same is found
          failed_pages->push_back(m.to);
        } else {
          std::ranges::copy(Record(m.from), Page(m.to).begin());
        }
        break;
    }
  }
  return absl::OkStatus();
}

}  // namespace dunlin::worker
