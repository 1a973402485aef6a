#include "model/describe.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::GgufBuilder;
using dunlin::testing::TinyLlamaBuilder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Describe(const GgufBuilder& builder, bool json) {
  const std::string bytes = builder.Build();
  const auto gguf = Gguf::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  EXPECT_OK(gguf);
  return gguf.ok() ? DescribeGguf(*gguf, json) : "";
}

TEST(DescribeGguf, TextShowsVersionKeysTensorTypesAndTheModel) {
  const std::string text = Describe(TinyLlamaBuilder({}), false);
  EXPECT_THAT(
      text, AllOf(HasSubstr("GGUF version 3"), HasSubstr("general.architecture = \"llama\""),
                  HasSubstr("llama.block_count = 2\n"), HasSubstr("264 x string [\"<|endoftext|>\", \"<|im_start|>\""),
                  HasSubstr(", ...]"), HasSubstr("runs on this build")));
  // 2 layers of 7 matrices in Q4_1, 5 norms in F32, one embedding of 264 x 64 in Q8_0.
  EXPECT_THAT(text, AllOf(HasSubstr("Q4_1        14 tensors"), HasSubstr("F32          5 tensors"),
                          HasSubstr("1280 bytes"), HasSubstr("Q8_0         1 tensors          17952 bytes")));
}

TEST(DescribeGguf, JsonHasTheSameFacts) {
  const auto out = nlohmann::json::parse(Describe(TinyLlamaBuilder({}), true));
  EXPECT_EQ(out["version"], 3);
  EXPECT_EQ(out["metadata"]["llama.embedding_length"], 64);
  EXPECT_EQ(out["metadata"]["tokenizer.ggml.tokens"]["array_length"], 264);
  EXPECT_EQ(out["metadata"]["tokenizer.ggml.tokens"]["first"].size(), 4u);
  EXPECT_EQ(out["metadata"]["tokenizer.chat_template"]["first"].get<std::string>().size(), 80u);
  EXPECT_EQ(out["tensor_types"]["Q8_0"]["bytes"], 264 * 64 / 32 * 34);
  EXPECT_EQ(out["tensor_count"], 20);
  EXPECT_EQ(out["config"]["head_dim"], 16);
  EXPECT_EQ(out["runnable"], true);
}

TEST(DescribeGguf, SaysWhyAModelDoesNotRun) {
  GgufBuilder b;
  b.String("general.architecture", "mamba");
  EXPECT_THAT(Describe(b, false), HasSubstr("does not run on this build: architecture 'mamba' is not known"));
  const auto out = nlohmann::json::parse(Describe(b, true));
  EXPECT_EQ(out["runnable"], false);
  EXPECT_TRUE(out["config"].is_null());
  EXPECT_THAT(out["reason"].get<std::string>(), HasSubstr("mamba"));
}

TEST(DescribeGguf, TextFromTheFileCannotDriveATerminalOrBreakJson) {
  GgufBuilder b;
  b.String("esc\x1b[31m",
           "bell\a csi\xC2\x9B"
           "31m caf\xC3\xA9")
      .String("bad", "\xFF\xFE");
  b.String("cut", std::string(79, 'x') + "\xC3\xA9 and more");
  const std::string text = Describe(b, false);
  EXPECT_THAT(text, AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\a")), Not(HasSubstr("\xC2\x9B")),
                          HasSubstr("\\u009b"), HasSubstr("caf\xC3\xA9")));
  EXPECT_THAT(text, HasSubstr(std::string(79, 'x') + "\"..."));
  EXPECT_FALSE(nlohmann::json::parse(Describe(b, true), nullptr, false).is_discarded());
}

}  // namespace
}  // namespace dunlin::model
