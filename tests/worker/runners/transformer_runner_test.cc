// TransformerRunner beyond its numbers: what it reports, page copies, no allocation on the step path, refused options
// and broken batches.
#include "worker/runners/transformer_runner.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"
#include "worker/runners/cpu_runner.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Counts what the whole program allocates, on every thread. Not inlined: the compiler would see malloc and free where
// it wants a pair.
__attribute__((noinline)) void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  std::abort();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

class TransformerRunnerTest : public ::testing::Test {
 protected:
  TransformerRunnerTest() {
    const std::string path = ::testing::TempDir() + "transformer_runner_" + std::to_string(::getpid()) + ".gguf";
    std::ofstream(path, std::ios::binary) << testing::BuildTinyLlama({});  // context 256
    file_ = model::GgufFile::Open(path).value();
    std::filesystem::remove(path);
    options_.max_model_len = 128;
    options_.max_rows = 32;
    options_.max_num_seqs = 4;
    options_.threads = 2;
    options_.measure_bandwidth = false;
    options_.kv_bytes = 32 * 2304 + 100;  // 32 pages and a rest
  }

  // A step of `sequences` sequences with `rows` rows each after `context` tokens; sequence s owns pages 8 s … 8 s + 7.
  static StepBatch Batch(int sequences, int rows, int context) {
    StepBatch batch;
    for (int s = 0; s < sequences; ++s) {
      batch.sequences.push_back({batch.num_rows(), rows, context, nullptr});
      for (int i = 0; i < rows; ++i) {
        batch.token_ids.push_back((s * 31 + (context + i) * 7) % 250);
        batch.positions.push_back(context + i);
      }
      batch.output_rows.push_back(batch.num_rows() - 1);
      kernels::SampleParams params;
      params.top_p = 0.9f;
      params.seed = 3;
      params.position = static_cast<uint64_t>(context + rows);
      params.num_top = 5;
      batch.sample_params.push_back(params);
      for (int p = 0; p < 8; ++p) batch.page_ids.push_back(8 * s + p);
    }
    for (size_t s = 0; s < batch.sequences.size(); ++s) batch.sequences[s].pages = &batch.page_ids[8 * s];
    return batch;
  }

  // Steps of several shapes on a runner of options_ allocate in the first round only.
  void ExpectNoAllocation() {
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
    std::vector<StepBatch> batches;  // moved, never copied: the slices point into page_ids
    batches.push_back(Batch(1, 32, 0));
    batches.push_back(Batch(4, 8, 0));
    batches.push_back(Batch(4, 1, 8));
    batches.push_back(Batch(2, 16, 30));
    batches.push_back(Batch(1, 1, 100));
    // A result per shape: the engine keeps its own, whose lists keep their capacity.
    std::vector<StepResult> results(batches.size());
    for (int round = 0; round < 3; ++round) {
      const int64_t before = allocations.load();
      for (size_t i = 0; i < batches.size(); ++i) {
        const absl::Status status = runner->Step(batches[i], &results[i]);
        if (!status.ok()) FAIL() << status;
      }
      const int64_t during = allocations.load() - before;
      if (round == 0) {
        EXPECT_GT(during, 0) << "the first round makes the results' lists: the counter counts";
      } else {
        EXPECT_EQ(during, 0) << "round " << round;
      }
    }
  }

  std::unique_ptr<model::GgufFile> file_;
  RunnerOptions options_;
};

TEST_F(TransformerRunnerTest, ReportsWhatItWasMadeOf) {
  int calls = 0;
  uint64_t last = 0, total = 0;
  options_.progress = [&](uint64_t done, uint64_t all) {
    ++calls;
    EXPECT_GT(done, last);
    last = done;
    total = all;
  };
  options_.measure_bandwidth = true;
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
  const RunnerInfo& info = runner->info();
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.vocab_size, testing::kTinyVocabSize);
  EXPECT_EQ(info.max_model_len, 128);
  EXPECT_EQ(info.page_tokens, 16);
  EXPECT_EQ(info.num_pages, 32) << "as many as the bytes given hold";
  EXPECT_EQ(info.max_rows, 32);
  EXPECT_EQ(info.threads, 2);
  EXPECT_GT(info.weight_bytes, 0u);
  EXPECT_GT(info.peak_bandwidth_bytes_per_second, 1e8);
  EXPECT_EQ(calls, static_cast<int>(file_->gguf().tensors().size()));
  EXPECT_EQ(last, total) << "every tensor was packed once";
}

TEST_F(TransformerRunnerTest, AStepDeclaresItsTrafficAndTime) {
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
  StepResult result;
  ASSERT_OK(runner->Step(Batch(2, 10, 0), &result));
  // FP8: per token, layer and head 16 + 16 values and two scale bytes; two layers, two heads.
  EXPECT_EQ(result.traffic.kv_write_bytes, 20u * 2 * 2 * (16 + 16 + 2));
  EXPECT_EQ(result.traffic.kv_read_bytes, result.traffic.kv_write_bytes);
  EXPECT_GT(result.traffic.weight_bytes, 0u);
  EXPECT_GT(result.device_time, absl::ZeroDuration());
  ASSERT_EQ(result.outputs.size(), 2u);
  EXPECT_EQ(result.outputs[0].top_ids.size(), 5u);
  ASSERT_OK(runner->Step(Batch(2, 1, 10), &result));
  EXPECT_EQ(result.traffic.kv_read_bytes, 2u * 11 * 2 * 2 * (16 + 16 + 2));
}

TEST_F(TransformerRunnerTest, AWindowOrSelectedPagesAreReadAndDeclared) {
  const auto read = [this](const RunnerOptions& options, int context) {
    const auto runner = CreateCpuRunner(*file_, options).value();
    StepResult result;
    EXPECT_OK(runner->Step(Batch(1, 32, 0), &result));
    EXPECT_OK(runner->Step(Batch(1, 32, 32), &result));
    EXPECT_OK(runner->Step(Batch(1, 1, context), &result));
    return result.traffic.kv_read_bytes;
  };
  constexpr uint64_t kToken = 2 * 2 * (16 + 16 + 2), kBounds = 2 * 2 * 16 * 4;
  RunnerOptions o = options_;
  o.attention_window = 20;
  o.attention_sinks = 3;
  EXPECT_EQ(read(o, 64), kToken * 23);
  o = options_;
  o.attention_top_pages = 3;  // pages 0, 4 and one of 1, 2, 3
  EXPECT_EQ(read(o, 64), kToken * (2 * 16 + 1) + kBounds * 4);
  o.attention_top_pages = 5;
  EXPECT_EQ(read(o, 64), kToken * 65);
}

TEST_F(TransformerRunnerTest, StepsAllocateNothingOnceWarm) {
  for (const int top_pages : {0, 2}) {
    options_.attention_top_pages = top_pages;
    ExpectNoAllocation();
  }
}

TEST_F(TransformerRunnerTest, ACopiedPageIsAsGoodAsTheOriginal) {
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
  StepResult original, copied;
  ASSERT_OK(runner->Step(Batch(1, 20, 0), &original));
  StepBatch next = Batch(1, 1, 20);
  ASSERT_OK(runner->Step(next, &original));
  using Kind = kv::PageMove::Kind;
  const std::vector<kv::PageMove> copies = {{Kind::kCopy, 0, 30}, {Kind::kCopy, 1, 17}};
  std::vector<int32_t> failed{9};
  ASSERT_OK(runner->MovePages(copies, &failed));
  EXPECT_TRUE(failed.empty());
  next.page_ids[0] = 30;
  next.page_ids[1] = 17;
  ASSERT_OK(runner->Step(next, &copied));
  EXPECT_EQ(copied.outputs[0].token, original.outputs[0].token);
  EXPECT_EQ(copied.outputs[0].top_logprobs, original.outputs[0].top_logprobs);
}

TEST_F(TransformerRunnerTest, APageComesBackFromTheHostTierAsItWas) {
  for (const std::string& directory : {std::string(), ::testing::TempDir()}) {
    RunnerOptions options = options_;
    options.swap_bytes = 1 << 20;
    options.swap_directory = directory;
    options.measure_bandwidth = true;
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options));
    const RunnerInfo& info = runner->info();
    EXPECT_GT(info.host_slots, 2);
    EXPECT_LE(static_cast<uint64_t>(info.host_slots) * (info.page_bytes + 64), options.swap_bytes);
    EXPECT_GT(info.host_bandwidth_bytes_per_second, 0.0);
    StepResult original, restored;
    ASSERT_OK(runner->Step(Batch(1, 20, 0), &original));
    StepBatch next = Batch(1, 1, 20);
    ASSERT_OK(runner->Step(next, &original));
    using Kind = kv::PageMove::Kind;
    // Page 0 goes, is overwritten and comes back elsewhere; slot 2 was never written.
    const std::vector<kv::PageMove> moves = {
        {Kind::kSave, 0, 1}, {Kind::kCopy, 9, 0}, {Kind::kRestore, 1, 30}, {Kind::kRestore, 2, 29}};
    std::vector<int32_t> failed;
    ASSERT_OK(runner->MovePages(moves, &failed));
    EXPECT_EQ(failed, std::vector<int32_t>{29});
    next.page_ids[0] = 30;
    ASSERT_OK(runner->Step(next, &restored));
    EXPECT_EQ(restored.outputs[0].token, original.outputs[0].token);
    EXPECT_EQ(restored.outputs[0].top_logprobs, original.outputs[0].top_logprobs);
  }
}

TEST_F(TransformerRunnerTest, ImpossibleOptionsAreRefusedByName) {
  const auto refused = [this](RunnerOptions options) { return CreateCpuRunner(*file_, options).status(); };
  RunnerOptions o = options_;
  o.max_model_len = 257;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--max-model-len 257")));
  o = options_;
  o.page_tokens = 12;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--block-size 12")));
  o = options_;
  o.max_rows = 0;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--max-num-batched-tokens 0")));
  o = options_;
  o.kv_bytes = 1000;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("not even one page")));
  o = options_;
  o.swap_bytes = 100;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--swap-space-bytes 100")));
  o = options_;
  o.memory_utilization = std::nan("");
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--gpu-memory-utilization")));
  o = options_;
  o.attention_window = -1;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--attention-window -1")));
  o = options_;
  o.attention_sinks = 4;
  EXPECT_THAT(refused(o),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--attention-sinks 4: needs --attention-window")));
  o.attention_window = 16;
  o.attention_sinks = 128;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--attention-sinks 128: a sequence")));
  o.attention_sinks = -4;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--attention-sinks -4")));
  o = options_;
  o.attention_top_pages = -2;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--attention-top-pages -2")));
  setenv("DUNLIN_ISA", "mmx", 1);
  EXPECT_THAT(refused(options_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("DUNLIN_ISA")));
  unsetenv("DUNLIN_ISA");
}

TEST_F(TransformerRunnerTest, AModelsOwnWindowMayOnlyNarrow) {
  const std::string path = ::testing::TempDir() + "own_window_" + std::to_string(::getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary)
      << testing::TinyLlamaBuilder({}).U32("llama.attention.sliding_window", 24).Build();
  file_ = model::GgufFile::Open(path).value();
  std::filesystem::remove(path);
  options_.attention_window = 25;
  EXPECT_THAT(CreateCpuRunner(*file_, options_).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the model's own sliding window is 24")));
  constexpr uint64_t kToken = 2 * 2 * (16 + 16 + 2);
  for (const int window : {0, 24, 10}) {
    options_.attention_window = window;
    options_.attention_sinks = 2;  // beside the model's window as beside the option's
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
    StepResult result;
    ASSERT_OK(runner->Step(Batch(1, 32, 0), &result));
    ASSERT_OK(runner->Step(Batch(1, 1, 32), &result));
    EXPECT_EQ(result.traffic.kv_read_bytes, kToken * static_cast<uint64_t>(2 + (window == 0 ? 24 : window)));
  }
}

using TransformerRunnerDeathTest = TransformerRunnerTest;

TEST_F(TransformerRunnerDeathTest, ABatchThatContradictsItselfAborts) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file_, options_));
  StepResult result;
  const auto step = [&](const StepBatch& batch) { (void)runner->Step(batch, &result); };
  StepBatch b = Batch(1, 4, 0);
  b.page_ids[0] = 32;
  EXPECT_DEATH(step(b), "page 32");
  b = Batch(1, 4, 0);
  b.positions[2] = 9;
  EXPECT_DEATH(step(b), "check failed");
  b = Batch(1, 4, 0);
  b.token_ids[0] = testing::kTinyVocabSize;
  EXPECT_DEATH(step(b), "token id");
  b = Batch(1, 4, 0);
  b.output_rows[0] = 4;
  EXPECT_DEATH(step(b), "output row 4");
  b = Batch(1, 30, 100);
  EXPECT_DEATH(step(b), "max_model_len");
}

}  // namespace
}  // namespace dunlin::worker
