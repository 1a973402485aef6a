#include "worker/runners/check_batch.h"

#include "base/check.h"

namespace dunlin::worker {

void CheckBatch(const StepBatch& batch, const RunnerInfo& info) {
  CHECK_GT(batch.num_rows(), 0);
  CHECK_LE(batch.num_rows(), info.max_rows);
  CHECK_EQ(batch.positions.size(), batch.token_ids.size());
  CHECK_EQ(batch.sample_params.size(), batch.output_rows.size());
  const auto page_tokens = info.page_tokens;
  const int max_model_len = info.max_model_len;
  int32_t next_row = 0;
  for (const kernels::SequenceSlice& s : batch.sequences) {
    CHECK_EQ(s.first_row, next_row);
    CHECK_GT(s.num_rows, 0);
    CHECK_GE(s.context_tokens, 0);
    const int32_t end = s.context_tokens + s.num_rows;
    CHECK_LE(end, max_model_len);
    for (int32_t i = 0; i < (end + page_tokens - 1) / page_tokens; ++i) {
      CHECK(s.pages[i] >= 0 && s.pages[i] < info.num_pages) << "page " << s.pages[i];
    }
    next_row += s.num_rows;
    CHECK_LE(next_row, batch.num_rows());
    for (int32_t row = s.first_row; row < next_row; ++row) {
      CHECK_EQ(batch.positions[static_cast<size_t>(row)], s.context_tokens + row - s.first_row);
    }
  }
  CHECK_EQ(next_row, batch.num_rows());
  const bool ahead = !batch.token_from_previous.empty();
  if (ahead) CHECK_EQ(batch.token_from_previous.size(), batch.token_ids.size());
  for (size_t row = 0; row < batch.token_ids.size(); ++row) {
    const int32_t id = batch.token_ids[row];
    const bool unknown = ahead && batch.token_from_previous[row] >= 0;
    CHECK(unknown ? id == -1 : id >= 0 && id < info.vocab_size) << "token id " << id;
  }
  int32_t last = -1;
  for (const int32_t row : batch.output_rows) {
    CHECK(row > last && row < batch.num_rows()) << "output row " << row;
    last = row;
  }
}

}  // namespace dunlin::worker
