#include "tests/worker/runners/runner_harness.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "tests/support/test_data.h"

namespace dunlin::testing {

TestPages::TestPages(const worker::RunnerInfo& info, uint32_t seed)
    : page_tokens_(info.page_tokens), free_(static_cast<size_t>(info.num_pages)) {
  std::iota(free_.begin(), free_.end(), 0);
  std::shuffle(free_.begin(), free_.end(), std::mt19937(seed));
}

void TestPages::Grow(TestSequence* sequence, int tokens) {
  while (static_cast<int>(sequence->pages.size()) * page_tokens_ < tokens) {
    CHECK(!free_.empty()) << "the test needs more pages";
    sequence->pages.push_back(free_.back());
    free_.pop_back();
  }
}

void TestPages::Free(TestSequence* sequence) {
  free_.insert(free_.begin(), sequence->pages.begin(), sequence->pages.end());
  sequence->pages.clear();
  sequence->context = 0;
}

void TestBatch::Add(TestSequence* sequence, std::span<const int32_t> tokens, Outputs outputs,
                    const kernels::SampleParams& params) {
  std::vector<int32_t> at;
  for (int32_t i = 0; i < static_cast<int32_t>(tokens.size()); ++i) {
    if (outputs == Outputs::kAll || (outputs == Outputs::kLast && i + 1 == static_cast<int32_t>(tokens.size()))) {
      at.push_back(i);
    }
  }
  AddAt(sequence, tokens, at, params);
}

void TestBatch::AddAt(TestSequence* sequence, std::span<const int32_t> tokens, std::span<const int32_t> output_at,
                      const kernels::SampleParams& params) {
  const int32_t first = batch_.num_rows();
  const auto n = static_cast<int32_t>(tokens.size());
  pages_->Grow(sequence, sequence->context + n);
  for (int32_t i = 0; i < n; ++i) {
    batch_.token_ids.push_back(tokens[static_cast<size_t>(i)]);
    batch_.positions.push_back(sequence->context + i);
  }
  for (const int32_t i : output_at) {
    batch_.output_rows.push_back(first + i);
    batch_.sample_params.push_back(params);
    batch_.sample_params.back().position = static_cast<uint64_t>(sequence->context + i + 1);
  }
  batch_.sequences.push_back({first, n, sequence->context, nullptr});
  sequences_.push_back(sequence);
}

const worker::StepResult& TestBatch::Run() {
  std::vector<size_t> at;
  for (const TestSequence* s : sequences_) {
    at.push_back(batch_.page_ids.size());
    batch_.page_ids.insert(batch_.page_ids.end(), s->pages.begin(), s->pages.end());
  }
  for (size_t i = 0; i < sequences_.size(); ++i) batch_.sequences[i].pages = batch_.page_ids.data() + at[i];
  const absl::Status status = runner_->Step(batch_, &result_);
  CHECK(status.ok()) << status.ToString();
  for (size_t i = 0; i < sequences_.size(); ++i) sequences_[i]->context += batch_.sequences[i].num_rows;
  batch_.Clear();
  sequences_.clear();
  return result_;
}

worker::RunnerOptions SmallOptions(int max_model_len, int sequences) {
  worker::RunnerOptions options;
  options.k_format = options.v_format = kernels::KvFormat::kF32;
  options.max_model_len = max_model_len;
  options.max_num_seqs = sequences;
  options.kv_bytes = uint64_t{2} << 30;
  options.threads = 2;
  options.measure_bandwidth = false;
  return options;
}

std::unique_ptr<model::GgufFile> OpenBytes(const std::string& bytes) {
  const char* tmp = std::getenv("TMPDIR");
  std::string path = std::string(tmp != nullptr ? tmp : "/tmp") + "/dunlin_model_XXXXXX";
  const int fd = mkstemp(path.data());
  CHECK_GE(fd, 0);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    CHECK_GT(n, 0);
    done += static_cast<size_t>(n);
  }
  close(fd);
  absl::StatusOr<std::unique_ptr<model::GgufFile>> file = model::GgufFile::Open(path);
  unlink(path.c_str());
  CHECK(file.ok()) << file.status().ToString();
  return *std::move(file);
}

std::unique_ptr<model::GgufFile> OpenDefaultModel() {
  const std::string path = DefaultModelPath();
  if (path.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<model::GgufFile>> file = model::GgufFile::Open(path);
  CHECK(file.ok()) << file.status().ToString();
  return *std::move(file);
}

}  // namespace dunlin::testing
