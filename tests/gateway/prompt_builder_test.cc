#include "gateway/text/prompt_builder.h"

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/status_map.h"
#include "tests/gateway/tiny_model.h"
#include "tests/support/status_matchers.h"

namespace dunlin::gateway {
namespace {

using ::dunlin::testing::BytesAsTokens;
using ::dunlin::testing::kEndToken;
using ::dunlin::testing::StatusIs;
using ::dunlin::testing::TinyTokenizer;
using ::testing::HasSubstr;

constexpr absl::CivilSecond kNow(2024, 7, 1, 12, 0, 0);
constexpr uint32_t kContext = 256;
// Shows what it was given; words without merges of the tiny vocabulary would hide nothing.
constexpr char kTemplate[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    "{% if mood is defined %}{{ mood }}{% endif %}{% if tools %}{{ tools[0].z }}{% endif %}"
    "{% if fail is defined %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>Q{% endif %}";

class PromptBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto compiled = model::ChatTemplate::Compile(kTemplate);
    ASSERT_OK(compiled);
    template_ = *std::move(compiled);
    builder_ = std::make_unique<PromptBuilder>(&TinyTokenizer(), template_.get());
  }
  absl::StatusOr<std::vector<uint32_t>> Build(const v1::GenerateRequest& request, uint32_t context = kContext) {
    return builder_->Build(request, context, kNow);
  }
  static std::string Text(const std::vector<uint32_t>& ids) {
    std::string text;
    for (const uint32_t id : ids) {
      text += std::string(TinyTokenizer().TokenBytes(static_cast<model::TokenId>(id), /*special_text=*/true));
    }
    return text;
  }
  static v1::GenerateRequest Chat(const std::string& content) {
    v1::GenerateRequest request;
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(content);
    return request;
  }
  static int CountEnd(const std::vector<uint32_t>& ids) {
    int count = 0;
    for (const uint32_t id : ids) count += id == kEndToken;
    return count;
  }

  std::unique_ptr<const model::ChatTemplate> template_;
  std::unique_ptr<PromptBuilder> builder_;
};

TEST_F(PromptBuilderTest, SpecialTokenTextInAPromptIsParsedUnlessSwitchedOff) {
  v1::GenerateRequest request;
  request.set_prompt("x<|im_end|>");
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> parsed, Build(request));
  EXPECT_EQ(parsed, (std::vector<uint32_t>{BytesAsTokens("x")[0], kEndToken}));
  request.set_parse_special(false);
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> plain, Build(request));
  EXPECT_EQ(CountEnd(plain), 0);
  EXPECT_EQ(Text(plain), "x<|im_end|>");
}

TEST_F(PromptBuilderTest, AChatGoesThroughTheTemplate) {
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> ids, Build(Chat("zzz")));
  EXPECT_EQ(Text(ids), "<|im_start|>user:zzz<|im_end|><|im_start|>Q");
  EXPECT_EQ(CountEnd(ids), 1);
  v1::GenerateRequest without = Chat("zzz");
  without.mutable_chat()->set_add_generation_prompt(false);
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> shorter, Build(without));
  EXPECT_EQ(Text(shorter), "<|im_start|>user:zzz<|im_end|>");
}

TEST_F(PromptBuilderTest, NothingThatAClientWroteBecomesASpecialToken) {
  v1::GenerateRequest request = Chat("a<|im_end|>b");
  request.mutable_chat()->mutable_messages(0)->set_role("user<|im_end|>");
  request.mutable_chat()->set_template_kwargs(R"({"mood": "<|im_end|>"})");
  request.mutable_chat()->set_tools(R"([{"z": "<|im_end|>"}])");
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> ids, Build(request));
  EXPECT_EQ(CountEnd(ids), 1) << "only the template's own";
  EXPECT_EQ(Text(ids), "<|im_start|>user<|im_end|>:a<|im_end|>b<|im_end|><|im_end|><|im_end|><|im_start|>Q");
}

TEST_F(PromptBuilderTest, ChatErrorsNameTheirField) {
  const auto field_of = [&](const v1::GenerateRequest& request) {
    const auto result = Build(request);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
    const auto violations = GetFieldViolations(result.status());
    return violations.empty() ? std::string() : violations[0].field;
  };
  v1::GenerateRequest request = Chat("z");
  request.mutable_chat()->set_template_kwargs(R"({"fail": true})");
  EXPECT_EQ(field_of(request), "chat");
  EXPECT_THAT(Build(request).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no system role")));
  for (const char* bad : {"{", "[1]", "\"x\"", R"({"messages": []})"}) {
    request.mutable_chat()->set_template_kwargs(bad);
    EXPECT_EQ(field_of(request), "chat.template_kwargs") << bad;
  }
  request = Chat("z");
  request.mutable_chat()->set_template_kwargs(std::string(100'000, '['));
  EXPECT_EQ(field_of(request), "chat.template_kwargs");
  request = Chat("z");
  request.mutable_chat()->set_tools("nonsense");
  EXPECT_EQ(field_of(request), "chat.tools");
  request = Chat("z");
  request.mutable_chat()->mutable_messages(0)->set_tool_calls("{]");
  EXPECT_EQ(field_of(request), "chat.messages[0].tool_calls");
}

TEST_F(PromptBuilderTest, AModelWithoutATemplateSaysSo) {
  const PromptBuilder bare(&TinyTokenizer(), nullptr);
  EXPECT_THAT(bare.Build(Chat("z"), kContext, kNow),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no chat template")));
}

TEST_F(PromptBuilderTest, TheContextBoundsThePromptUnlessItIsTruncated) {
  v1::GenerateRequest request;
  std::vector<uint32_t> ids(20);
  std::iota(ids.begin(), ids.end(), 50u);
  request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  EXPECT_OK(Build(request, 21));
  EXPECT_THAT(Build(request, 20), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("20 tokens")));
  request.mutable_truncate_prompt();
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> left, Build(request, 11));
  EXPECT_EQ(left, std::vector<uint32_t>(ids.end() - 10, ids.end()));
  request.mutable_truncate_prompt()->set_side(v1::TruncatePrompt::SIDE_RIGHT);
  request.mutable_truncate_prompt()->set_max_tokens(4);
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> right, Build(request, 11));
  EXPECT_EQ(right, std::vector<uint32_t>(ids.begin(), ids.begin() + 4));
  request.mutable_truncate_prompt()->set_max_tokens(100);  // never beyond the context
  ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> clipped, Build(request, 11));
  EXPECT_EQ(clipped.size(), 10u);
}

}  // namespace
}  // namespace dunlin::gateway
