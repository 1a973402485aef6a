// The qwen2 family (biases on q, k and v; RoPE on halves) against logits that another implementation computed: a tiny
// random checkpoint, read from its safetensors file and written as the GGUF that a converter would make of it.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/quant_format.h"
#include "kernels/reference/reference_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::worker {
namespace {

using kernels::DType;
using kernels::KvFormat;
using testing::RunnerDriver;

constexpr char kFolder[] = "golden/tiny_models/qwen2/";

// "model.layers.0.self_attn.q_proj.weight" -> "blk.0.attn_q.weight".
std::string GgufName(const std::string& name) {
  return absl::StrReplaceAll(name, {{"model.layers.", "blk."},
                                    {"model.embed_tokens", "token_embd"},
                                    {"model.norm", "output_norm"},
                                    {"input_layernorm", "attn_norm"},
                                    {"post_attention_layernorm", "ffn_norm"},
                                    {"self_attn.o_proj", "attn_output"},
                                    {"self_attn.q_proj", "attn_q"},
                                    {"self_attn.k_proj", "attn_k"},
                                    {"self_attn.v_proj", "attn_v"},
                                    {"mlp.gate_proj", "ffn_gate"},
                                    {"mlp.up_proj", "ffn_up"},
                                    {"mlp.down_proj", "ffn_down"}});
}

std::string MakeGguf() {
  testing::GgufBuilder b;
  b.String("general.architecture", "qwen2").U32("qwen2.block_count", 2).U32("qwen2.context_length", 512);
  b.U32("qwen2.embedding_length", 64).U32("qwen2.feed_forward_length", 128);
  b.U32("qwen2.attention.head_count", 4).U32("qwen2.attention.head_count_kv", 2);
  b.F32("qwen2.rope.freq_base", 1e6f).F32("qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
  const std::string bytes = testing::ReadFile(testing::SharedDataPath(absl::StrCat(kFolder, "model.safetensors")));
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = 8 + header_bytes + tensor.at("data_offsets").at(0).get<size_t>();
    const size_t end = 8 + header_bytes + tensor.at("data_offsets").at(1).get<size_t>();
    auto dims = tensor.at("shape").get<std::vector<int64_t>>();
    std::reverse(dims.begin(), dims.end());
    std::vector<float> values((end - begin) / 2);
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, bytes.data() + begin + 2 * i, 2);
      values[i] = kernels::Bfloat16ToFloat(bits);
    }
    b.Tensor(GgufName(name), dims, DType::kF32, values);
  }
  return b.Build();
}

TEST(Qwen2GoldenTest, LogitsAndGreedyTokensAreThoseOfTheOtherImplementation) {
  if (testing::SharedDataPath(absl::StrCat(kFolder, "model.safetensors")).empty()) {
    GTEST_SKIP() << "the tiny checkpoints are not there";
  }
  const std::string path = ::testing::TempDir() + "qwen2_golden_" + std::to_string(::getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary) << MakeGguf();
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  std::filesystem::remove(path);
  const nlohmann::json expected =
      nlohmann::json::parse(testing::ReadFile(testing::SharedDataPath(absl::StrCat(kFolder, "expected.json"))));
  const auto prompt = expected.at("prompt_ids").get<std::vector<int32_t>>();
  const std::vector<float> want =
      testing::ReadArray<float>(testing::SharedDataPath(absl::StrCat(kFolder, "expected_logits.f32")));
  ASSERT_EQ(want.size(), prompt.size() * 256);
  RunnerOptions options;
  options.k_format = options.v_format = KvFormat::kF32;
  options.max_rows = 64;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{8} << 20;
  options.measure_bandwidth = false;
  for (const bool fast : {false, true}) {
    SCOPED_TRACE(fast ? "cpu" : "reference");
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<ModelRunner> runner,
                         fast ? CreateCpuRunner(*file, options) : CreateReferenceRunner(*file, options));
    RunnerDriver driver(runner.get(), [&]() -> std::span<const float> {
      if (fast) return static_cast<TransformerRunner<kernels::cpu::CpuOps>*>(runner.get())->TEST_logits();
      return static_cast<TransformerRunner<kernels::ReferenceOps>*>(runner.get())->TEST_logits();
    });
    RunnerDriver::Sequence sequence;
    // Some rows at once, then the rest behind a context.
    const std::vector<std::vector<float>> rows = driver.Feed(&sequence, prompt, 23, [](int) { return true; });
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < 256; ++i) ASSERT_NEAR(rows[r][i], want[r * 256 + i], 1e-4) << r << ' ' << i;
    }
    for (const nlohmann::json& step : expected.at("greedy_steps")) {
      const auto id = step.at(0).get<int32_t>();
      if (step.at(3).get<double>() > 2e-4) {
        EXPECT_EQ(driver.last_result().outputs.back().token, id);
      }
      driver.Step({{&sequence, {id}, {0}}});
    }
  }
}

}  // namespace
}  // namespace dunlin::worker
