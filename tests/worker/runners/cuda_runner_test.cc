// The CUDA runner's numbers: against the CPU runner, and against itself where the bits must be equal.
#include "worker/runners/cuda_runner.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/sampling.h"
#include "tests/support/f32_runner.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/runners/cuda_runner_fixture.h"

namespace dunlin::worker {
namespace {

using kernels::KvFormat;
using testing::RunnerDriver;
using Sequence = RunnerDriver::Sequence;
using Part = RunnerDriver::Part;

// How far two backends that keep the same rules may be apart in relative L2 of a row of logits. What differs: the order
// of f32 sums (1e-6), and f16 rounding of q and p in attention (2^-11). That much moves some values over a rounding
// boundary where both backends round alike, to INT8 activations and to pages; from there on they round differently.
// At most it is as if no rounding of the one agreed with the other's: INT8 activations have a step of amax / 127, about
// 0.03 of their root mean square, and are off by 0.03 / sqrt(12) = 9e-3 for every rounding; two backends differ by
// sqrt(2) of it, and eight roundings in a row are sqrt(8) of that: 3.5e-2, and half of it for the worst of many rows.
constexpr double kTolerance = 5e-2;
// And neither is nearer to the same network with f32 weights and activations, but for the chance of those flips: the
// mean of about 90 rows, which are not independent.
constexpr double kDistanceRatio = 1.1;

// Collects rows of logits and judges them; f32: of the oracle.
class Errors {
 public:
  void Add(const std::vector<Row>& got, const std::vector<Row>& cpu, const std::vector<Row>& f32) {
    ASSERT_EQ(got.size(), cpu.size());
    for (size_t i = 0; i < cpu.size(); ++i) {
      const double error = RelativeError(got[i], cpu[i]);
      EXPECT_TRUE(error <= kTolerance) << "row " << i << ": " << error;
      worst_ = std::max(worst_, error);
      got_sum_ += RelativeError(got[i], f32[i]);
      cpu_sum_ += RelativeError(cpu[i], f32[i]);
      ++rows_;
      // The same greedy token but where two are closer than the tolerance.
      const float lead = cpu[i][static_cast<size_t>(ArgMax(cpu[i]))] - cpu[i][static_cast<size_t>(ArgMax(got[i]))];
      EXPECT_TRUE(static_cast<double>(lead) <= 2 * kTolerance * Norm(cpu[i])) << "row " << i;
    }
  }
  ~Errors() {
    std::printf("%d rows: %.2e of the CPU's at worst; in the mean %.2e of f32's, the CPU's are %.2e\n", rows_, worst_,
                got_sum_ / rows_, cpu_sum_ / rows_);
    EXPECT_TRUE(got_sum_ <= kDistanceRatio * cpu_sum_);
  }

 private:
  double worst_ = 0, got_sum_ = 0, cpu_sum_ = 0;
  int rows_ = 0;
};

struct Pages {
  const char* name;
  KvFormat k, v;
  KvRoundingMode rounding;
};
std::ostream& operator<<(std::ostream& out, const Pages& p) { return out << p.name; }

class CudaRunnerPagesTest : public CudaRunnerTest, public ::testing::WithParamInterface<Pages> {};

// Prompts in chunks of both kinds (decode's and prefill's kernels), then decoding with the CPU's choices.
TEST_P(CudaRunnerPagesTest, LogitsAreTheCpus) {
  options_.k_format = GetParam().k;
  options_.v_format = GetParam().v;
  options_.kv_rounding = GetParam().rounding;
  const auto cpu = Cpu(options_);
  const auto cuda = Cuda();
  EXPECT_EQ(cuda->info().kv_rounding_id, cpu->info().kv_rounding_id);
  EXPECT_EQ(cuda->info().kv_rounding_id != 0, GetParam().rounding != KvRoundingMode::kNearest);
  ASSERT_OK_AND_ASSIGN(const auto f32, testing::CreateF32Runner(File(), options_));
  RunnerDriver want = CpuDriver(cpu.get()), got = Driver(cuda.get());
  RunnerDriver oracle = testing::MakeDriver<testing::F32Ops>(f32.get());
  Errors errors;
  for (const auto& [tokens, chunk] : {std::pair{40, 21}, {11, 3}, {17, 48}}) {
    Sequence a, b, c;
    const std::vector<int32_t> prompt = Prompt(tokens, 7);
    const auto all = [](int) { return true; };
    std::vector<Row> f32_rows = oracle.Feed(&c, prompt, chunk, all);
    std::vector<Row> want_rows = want.Feed(&a, prompt, chunk, all);
    std::vector<Row> got_rows = got.Feed(&b, prompt, chunk, all);
    for (int i = 0; i < 8; ++i) {
      const int32_t next = ArgMax(want_rows.back());
      want_rows.push_back(want.Step({{&a, {next}, {0}}})[0]);
      got_rows.push_back(got.Step({{&b, {next}, {0}}})[0]);
      f32_rows.push_back(oracle.Step({{&c, {next}, {0}}})[0]);
    }
    errors.Add(got_rows, want_rows, f32_rows);
    want.Close(&a);
    got.Close(&b);
    oracle.Close(&c);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, CudaRunnerPagesTest,
    ::testing::Values(Pages{"fp8", KvFormat::kE4M3, KvFormat::kE4M3, KvRoundingMode::kNearest},
                      Pages{"int8", KvFormat::kInt8, KvFormat::kInt8, KvRoundingMode::kNearest},
                      Pages{"int8_fp8", KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kNearest},
                      Pages{"f16", KvFormat::kF16, KvFormat::kF16, KvRoundingMode::kNearest},
                      Pages{"compensated", KvFormat::kE4M3, KvFormat::kE4M3, KvRoundingMode::kCompensated}),
    [](const auto& tested) { return std::string(tested.param.name); });

// Biases, head norms, untied f16 output, a window with sinks, scaled RoPE: what the table of weights may also hold.
TEST_F(CudaRunnerTest, OtherModelsAndAWindow) {
  model_.tied_output = false;
  model_.output_type = kernels::DType::kF16;
  model_.llama3_rope_freqs = true;
  model_.tensor_types = {{"blk.0.attn_v.weight", kernels::DType::kF16},    // meets halves, q and k codes
                         {"blk.0.ffn_gate.weight", kernels::DType::kF16},  // so do this and its up
                         {"blk.1.ffn_up.weight", kernels::DType::kQ8_0},   // another kernel's than its gate
                         {"blk.1.ffn_down.weight", kernels::DType::kQ5_0}};
  options_.attention_window = 20;
  options_.attention_sinks = 3;
  const auto cpu = Cpu(options_);
  const auto cuda = Cuda();
  ASSERT_OK_AND_ASSIGN(const auto f32, testing::CreateF32Runner(File(), options_));
  RunnerDriver want = CpuDriver(cpu.get()), got = Driver(cuda.get());
  RunnerDriver oracle = testing::MakeDriver<testing::F32Ops>(f32.get());
  Sequence a, b, c;
  const auto all = [](int) { return true; };
  const std::vector<int32_t> prompt = Prompt(60, 5);
  const std::vector<Row> want_rows = want.Feed(&a, prompt, 40, all), got_rows = got.Feed(&b, prompt, 40, all);
  Errors().Add(got_rows, want_rows, oracle.Feed(&c, prompt, 40, all));
  EXPECT_EQ(got.last_result().traffic.kv_read_bytes, want.last_result().traffic.kv_read_bytes);
  EXPECT_EQ(got.last_result().traffic.kv_write_bytes, want.last_result().traffic.kv_write_bytes);
}

// A decode row's bits depend on its own sequence alone: not on the company, the page ids, or how often it is run.
TEST_F(CudaRunnerTest, CompanyAndPagesChangeNoBit) {
  options_.enforce_eager = true;
  const auto runner = Cuda();
  RunnerDriver driver = Driver(runner.get());
  const std::vector<int> lengths = {20, 9, 33};
  std::vector<std::vector<Row>> alone;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Sequence s;
    const int last = lengths[i] - 1;
    std::vector<Row>& rows = alone.emplace_back(driver.Feed(&s, Prompt(lengths[i], static_cast<unsigned>(i)), 48,
                                                            [last](int position) { return position == last; }));
    for (int d = 0; d < 3; ++d) rows.push_back(driver.Step({{&s, {ArgMax(rows.back())}, {0}}})[0]);
    driver.Close(&s);  // the next sequence takes other pages, and later these again in another order
  }
  // Together: the second prompt is prefilled while the first decodes, the third joins later.
  std::vector<Sequence> s(3);
  std::vector<std::vector<Row>> together(3);
  const auto prompt = [&](size_t i) {
    return Part{&s[i], Prompt(lengths[i], static_cast<unsigned>(i)), {lengths[i] - 1}};
  };
  const auto decode = [&](size_t i) { return Part{&s[i], {ArgMax(together[i].back())}, {0}}; };
  const std::vector<std::vector<size_t>> who = {{0}, {0, 1}, {1, 0, 2}, {2, 0, 1}, {1, 2}, {2}};
  for (const std::vector<size_t>& step : who) {
    std::vector<Part> parts;
    for (const size_t i : step) parts.push_back(s[i].tokens.empty() ? prompt(i) : decode(i));
    const std::vector<Row> rows = driver.Step(parts);
    for (size_t k = 0; k < step.size(); ++k) together[step[k]].push_back(rows[k]);
  }
  for (size_t i = 0; i < alone.size(); ++i) {
    ASSERT_EQ(together[i].size(), alone[i].size()) << i;
    for (size_t d = 0; d < alone[i].size(); ++d) EXPECT_EQ(together[i][d], alone[i][d]) << i << ' ' << d;
  }
}

// Steps of 1 to 5 sequences of one or three rows: first as kernels, then recorded, then replayed, also where rows are
// padding.
TEST_F(CudaRunnerTest, GraphsGiveTheBitsOfEagerSteps) {
  RunnerOptions eager = options_;
  eager.enforce_eager = true;
  const auto want_runner = Cuda(eager);
  const auto got_runner = Cuda();
  RunnerDriver want = Driver(want_runner.get()), got = Driver(got_runner.get());
  std::vector<Sequence> a(5), b(5);
  const auto none = [](int) { return false; };
  for (size_t i = 0; i < a.size(); ++i) {
    const std::vector<int32_t> prompt = Prompt(10 + 5 * static_cast<int>(i), static_cast<unsigned>(i));
    want.Feed(&a[i], prompt, 48, none);
    got.Feed(&b[i], prompt, 48, none);
    EXPECT_EQ(got.last_result().graph, GraphUse::kEager) << "a prompt";
  }
  std::vector<GraphUse> uses;
  for (const auto& [n, rows] :
       {std::pair{3u, 1}, {4u, 1}, {2u, 1}, {3u, 1}, {5u, 3}, {4u, 1}, {5u, 3}, {3u, 3}, {1u, 1}, {1u, 1}}) {
    std::vector<Part> want_parts, got_parts;
    for (size_t i = 0; i < n; ++i) {
      want_parts.push_back({&a[i], Prompt(rows, 100 * n + static_cast<unsigned>(i)), {rows - 1}});
      got_parts.push_back({&b[i], want_parts.back().tokens, {rows - 1}});
    }
    EXPECT_EQ(got.Step(got_parts), want.Step(want_parts)) << n;
    const StepResult &g = got.last_result(), &w = want.last_result();
    uses.push_back(g.graph);
    EXPECT_EQ(w.graph, GraphUse::kEager);
    EXPECT_EQ(g.traffic.weight_bytes, w.traffic.weight_bytes);
    EXPECT_EQ(g.traffic.kv_read_bytes, w.traffic.kv_read_bytes);
    EXPECT_EQ(g.traffic.kv_write_bytes, w.traffic.kv_write_bytes);
    EXPECT_EQ(g.traffic.activation_bytes, w.traffic.activation_bytes);
    EXPECT_GT(g.device_time, absl::ZeroDuration());
  }
  // Buckets 4, 4, 2, 4, 16, 4, 16, 16, 1, 1; the start has run one row before.
  using enum GraphUse;
  EXPECT_EQ(uses, (std::vector<GraphUse>{kEager, kRecorded, kEager, kReplayed, kEager, kReplayed, kRecorded, kReplayed,
                                         kRecorded, kReplayed}));
  for (int32_t page = 0; page < want_runner->info().num_pages; ++page) {
    if (page == 0) continue;  // the start's
    EXPECT_EQ(got_runner->TEST_page(page), want_runner->TEST_page(page)) << page;
  }
}

TEST_F(CudaRunnerTest, LongContextsAreNotReplayed) {
  options_.max_graph_context = 30;
  const auto runner = Cuda();
  RunnerDriver driver = Driver(runner.get());
  Sequence s;
  driver.Feed(&s, Prompt(25, 1), 48, [](int) { return false; });
  std::vector<GraphUse> uses;
  for (int i = 0; i < 7; ++i) {
    driver.Step({{&s, {40 + i}, {0}}});
    uses.push_back(driver.last_result().graph);
  }
  using enum GraphUse;
  EXPECT_EQ(uses, (std::vector<GraphUse>{kRecorded, kReplayed, kReplayed, kReplayed, kReplayed, kEager, kEager}));
}

// Rows that verify a draft: several rows of a sequence, fewer than prefill's; they see each other.
TEST_F(CudaRunnerTest, DraftRowsAreOneByOneRows) {
  const auto runner = Cuda();
  RunnerDriver driver = Driver(runner.get());
  Sequence one, together;
  const std::vector<int32_t> prompt = Prompt(20, 3);
  driver.Feed(&one, prompt, 48, [](int) { return false; });
  driver.Feed(&together, prompt, 48, [](int) { return false; });
  const std::vector<int32_t> draft = {9, 8, 7, 6, 5};
  std::vector<Row> rows;
  for (const int32_t token : draft) rows.push_back(driver.Step({{&one, {token}, {0}}})[0]);
  EXPECT_EQ(driver.Step({{&together, draft, {0, 1, 2, 3, 4}}}), rows);
}

// More outputs than there is room for rows of logits: they take turns, and every one is judged.
TEST_F(CudaRunnerTest, PromptLogprobsTakeTurns) {
  StepBatch batch;
  const std::vector<int32_t> pages = {5, 2, 4};
  const std::vector<int32_t> prompt = Prompt(40, 2);
  batch.sequences.push_back({0, 40, 0, pages.data()});
  for (int i = 0; i < 40; ++i) {
    batch.token_ids.push_back(prompt[static_cast<size_t>(i)]);
    batch.positions.push_back(i);
    if (i == 39) continue;
    batch.output_rows.push_back(i);
    kernels::SampleParams params;
    params.forced_token = prompt[static_cast<size_t>(i) + 1];
    params.num_top = 3;
    batch.sample_params.push_back(params);
  }
  StepResult cpu, few, many;
  ASSERT_OK(Cpu(options_)->Step(batch, &cpu));
  options_.max_num_seqs = 3;
  ASSERT_OK(Cuda()->Step(batch, &few));
  options_.max_num_seqs = 40;
  ASSERT_OK(Cuda()->Step(batch, &many));
  ASSERT_EQ(few.outputs.size(), 39u);
  for (size_t i = 0; i < few.outputs.size(); ++i) {
    EXPECT_EQ(few.outputs[i].token, prompt[i + 1]);
    EXPECT_EQ(few.outputs[i].logprob, many.outputs[i].logprob) << i;
    EXPECT_EQ(few.outputs[i].top_ids, many.outputs[i].top_ids) << i;
    // kTolerance of the logits' root mean square, about 6, and three times that for the worst of 39.
    EXPECT_NEAR(few.outputs[i].logprob, cpu.outputs[i].logprob, 3 * kTolerance * 6) << i;
  }
}

// Draws are those of the definition for the very logits.
TEST_F(CudaRunnerTest, DrawsAreTheDefinitions) {
  const auto runner = Cuda();
  StepBatch batch;
  std::vector<std::vector<int32_t>> pages;
  pages.reserve(6);
  const std::vector<kernels::TokenCount> penalties = {{5, 3, true}, {40, 1, false}};
  const std::vector<kernels::TokenBias> biases = {{7, 4.0f}, {9, -3.0f}};
  const std::vector<int32_t> banned = {11, 12};
  for (int s = 0; s < 6; ++s) {
    const std::vector<int32_t> prompt = Prompt(7, static_cast<unsigned>(s));
    batch.sequences.push_back({batch.num_rows(), 7, 0, pages.emplace_back(1, s + 1).data()});
    for (int i = 0; i < 7; ++i) {
      batch.token_ids.push_back(prompt[static_cast<size_t>(i)]);
      batch.positions.push_back(i);
    }
    batch.output_rows.push_back(batch.num_rows() - 1);
    kernels::SampleParams p;
    p.seed = 77 + static_cast<uint64_t>(s);
    p.position = 7;
    p.num_top = s - 1;
    if (s % 2 == 1) p.top_p = 0.9f;
    if (s % 3 == 1) p.top_k = 12;
    if (s >= 3) p.penalty_tokens = penalties, p.repetition_penalty = 1.3f, p.frequency_penalty = 0.5f;
    if (s >= 4) p.biases = biases, p.banned = banned;
    batch.sample_params.push_back(p);
  }
  StepResult result;
  ASSERT_OK(runner->Step(batch, &result));
  const std::span<const float> logits = runner->TEST_logits();
  const int vocab = runner->info().vocab_size;
  for (size_t i = 0; i < result.outputs.size(); ++i) {
    kernels::SampleResult want;
    kernels::SampleReference(logits.data() + i * static_cast<size_t>(vocab), vocab, batch.sample_params[i], &want);
    EXPECT_EQ(result.outputs[i].token, want.token) << i;
    EXPECT_EQ(result.outputs[i].rank, want.rank) << i;
    EXPECT_EQ(result.outputs[i].top_ids, want.top_ids) << i;
    EXPECT_NEAR(result.outputs[i].logprob, want.logprob, 1e-5) << i;
  }
}

}  // namespace
}  // namespace dunlin::worker
