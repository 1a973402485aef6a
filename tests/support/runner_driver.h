// Drives a ModelRunner directly, without an engine: sequences with their own pages, fed by hand; logits come back.
// Thread-safety: test thread only.  Borrows: the runner.
#ifndef DUNLIN_TESTS_SUPPORT_RUNNER_DRIVER_H_
#define DUNLIN_TESTS_SUPPORT_RUNNER_DRIVER_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "worker/model_runner.h"

namespace dunlin::testing {

class RunnerDriver {
 public:
  // logits(): the logits of the runner's last step, [outputs, vocab] (TransformerRunner::TEST_logits).
  RunnerDriver(worker::ModelRunner* runner, std::function<std::span<const float>()> logits)
      : runner_(runner), logits_(std::move(logits)) {
    // Pages are handed out in a scattered order, so that no test depends on neighbours being adjacent.
    const int64_t n = runner->info().num_pages;
    int64_t stride = n / 2 + 1;
    while (std::gcd(stride, n) != 1) ++stride;
    for (int64_t i = 0; i < n; ++i) free_.push_back(static_cast<int32_t>((i * stride + 13) % n));
  }

  struct Sequence {
    std::vector<int32_t> tokens;  // fed so far
    std::vector<int32_t> pages;
  };
  // One sequence's part of a step: `tokens` are appended; the rows in `outputs` (index into tokens) give logits.
  struct Part {
    Sequence* sequence;
    std::vector<int32_t> tokens;
    std::vector<int32_t> outputs;
  };

  // Runs one step; returns the logits rows of all parts' outputs, in order. At most 64 outputs (one chunk of the
  // runner).
  std::vector<std::vector<float>> Step(const std::vector<Part>& parts) {
    worker::StepBatch batch;
    std::vector<size_t> page_begin;
    for (const Part& part : parts) {
      kernels::SequenceSlice slice;
      slice.first_row = batch.num_rows();
      slice.num_rows = static_cast<int32_t>(part.tokens.size());
      slice.context_tokens = static_cast<int32_t>(part.sequence->tokens.size());
      for (const int32_t o : part.outputs) batch.output_rows.push_back(slice.first_row + o);
      for (const int32_t token : part.tokens) {
        batch.positions.push_back(static_cast<int32_t>(part.sequence->tokens.size()));
        batch.token_ids.push_back(token);
        part.sequence->tokens.push_back(token);
      }
      const size_t page_tokens = static_cast<size_t>(runner_->info().page_tokens);
      while (part.sequence->pages.size() * page_tokens < part.sequence->tokens.size()) {
        CHECK(!free_.empty()) << "the test needs more pages";
        part.sequence->pages.push_back(free_.back());
        free_.pop_back();
      }
      page_begin.push_back(batch.page_ids.size());
      batch.page_ids.insert(batch.page_ids.end(), part.sequence->pages.begin(), part.sequence->pages.end());
      batch.sequences.push_back(slice);
    }
    for (size_t i = 0; i < parts.size(); ++i) batch.sequences[i].pages = batch.page_ids.data() + page_begin[i];
    batch.sample_params.resize(batch.output_rows.size());
    for (kernels::SampleParams& p : batch.sample_params) p.temperature = 0.0f;
    CHECK_LE(batch.output_rows.size(), 64u);
    const absl::Status status = runner_->Step(batch, &result_);
    CHECK(status.ok()) << status.ToString();
    const auto vocab = static_cast<size_t>(runner_->info().vocab_size);
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < batch.output_rows.size(); ++i) {
      const std::span<const float> row = logits_().subspan(i * vocab, vocab);
      rows.emplace_back(row.begin(), row.end());
    }
    return rows;
  }

  // Feeds all of `tokens` in chunks of at most `chunk` rows; logits of the positions (index into tokens) that `wanted`
  // accepts.
  std::vector<std::vector<float>> Feed(Sequence* sequence, std::span<const int32_t> tokens, int chunk,
                                       const std::function<bool(int)>& wanted) {
    std::vector<std::vector<float>> rows;
    for (size_t at = 0; at < tokens.size(); at += static_cast<size_t>(chunk)) {
      const auto part = tokens.subspan(at, std::min(static_cast<size_t>(chunk), tokens.size() - at));
      Part p{sequence, {part.begin(), part.end()}, {}};
      for (size_t i = 0; i < part.size(); ++i) {
        if (wanted(static_cast<int>(at + i))) p.outputs.push_back(static_cast<int32_t>(i));
      }
      for (std::vector<float>& row : Step({p})) rows.push_back(std::move(row));
    }
    return rows;
  }

  void Close(Sequence* sequence) {
    free_.insert(free_.end(), sequence->pages.begin(), sequence->pages.end());
    *sequence = {};
  }
  const worker::StepResult& last_result() const { return result_; }

 private:
  worker::ModelRunner* runner_;
  std::function<std::span<const float>()> logits_;
  std::vector<int32_t> free_;
  worker::StepResult result_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_RUNNER_DRIVER_H_
