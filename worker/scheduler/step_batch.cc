#include "worker/scheduler/step_batch.h"

#include "base/check.h"

namespace dunlin::worker {

StepBatchBuilder::StepBatchBuilder(int max_rows, int max_sequences, int page_tokens) : page_tokens_(page_tokens) {
  const auto rows = static_cast<size_t>(max_rows);
  batch_.token_ids.reserve(rows);
  batch_.token_from_previous.reserve(rows);
  batch_.positions.reserve(rows);
  batch_.output_rows.reserve(rows);
  batch_.sample_params.reserve(rows);
  batch_.sequences.reserve(static_cast<size_t>(max_sequences));
}

void StepBatchBuilder::AddSequence(std::span<const int32_t> tokens, int32_t context_tokens,
                                   std::span<const int32_t> pages, bool prefill) {
  CHECK(!tokens.empty());
  const auto num_rows = static_cast<int32_t>(tokens.size());
  const int32_t num_pages = (context_tokens + num_rows + page_tokens_ - 1) / page_tokens_;
  CHECK_GE(pages.size(), static_cast<size_t>(num_pages));
  batch_.sequences.push_back({batch_.num_rows(), num_rows, context_tokens, pages.data()});
  for (int32_t i = 0; i < num_rows; ++i) batch_.positions.push_back(context_tokens + i);
  batch_.token_ids.insert(batch_.token_ids.end(), tokens.begin(), tokens.end());
  if (prefill) batch_.num_prefill_rows += num_rows;
}

void StepBatchBuilder::AddUnknownToken(int32_t previous_output, int32_t context_tokens,
                                       std::span<const int32_t> pages) {
  CHECK_GE(previous_output, 0);
  constexpr int32_t kUnknown = -1;
  AddSequence({&kUnknown, 1}, context_tokens, pages, /*prefill=*/false);
  batch_.token_from_previous.resize(batch_.token_ids.size(), -1);
  batch_.token_from_previous.back() = previous_output;
}

void StepBatchBuilder::AddDraft(std::span<const int32_t> tokens, std::span<const int32_t> pages) {
  kernels::SequenceSlice& s = batch_.sequences.back();
  for (const int32_t token : tokens) {
    batch_.positions.push_back(s.context_tokens + s.num_rows++);
    batch_.token_ids.push_back(token);
  }
  const int32_t end = s.context_tokens + s.num_rows;
  CHECK_GE(pages.size() * static_cast<size_t>(page_tokens_), static_cast<size_t>(end));
}

void StepBatchBuilder::AddOutput(int32_t row_of_sequence, const kernels::SampleParams& params) {
  const kernels::SequenceSlice& s = batch_.sequences.back();
  CHECK(row_of_sequence >= 0 && row_of_sequence < s.num_rows) << row_of_sequence;
  const int32_t row = s.first_row + row_of_sequence;
  CHECK(batch_.output_rows.empty() || batch_.output_rows.back() < row) << row;
  batch_.output_rows.push_back(row);
  batch_.sample_params.push_back(params);
}

void StepBatchBuilder::Advance(size_t i, int32_t token, std::span<const int32_t> pages,
                               const kernels::SampleParams& params) {
  CHECK(batch_.token_ids.size() == batch_.sequences.size() && batch_.output_rows.size() == batch_.sequences.size());
  kernels::SequenceSlice& s = batch_.sequences[i];
  ++s.context_tokens;
  CHECK_GT(pages.size() * static_cast<size_t>(page_tokens_), static_cast<size_t>(s.context_tokens));
  s.pages = pages.data();
  batch_.token_ids[i] = token;
  ++batch_.positions[i];
  batch_.sample_params[i] = params;
}

const StepBatch& StepBatchBuilder::Finish() {
  if (!batch_.token_from_previous.empty()) batch_.token_from_previous.resize(batch_.token_ids.size(), -1);
  return batch_;
}

}  // namespace dunlin::worker
