// Every recorded rendering of the published chat templates (tests/golden/chat_templates/cases.json): the prompt or the
// refusal must be the reference engine's. The templates themselves are third-party files and are read where they are.
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"
#include "model/chat_template/value_heap.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

std::string TextOf(const Value& object, absl::string_view key) {
  const Value* v = object.Find(key);
  return v != nullptr && v->is_string() ? v->text().bytes() : "";
}

// The variables of a case: what the README of the data names, in its order.
Value Variables(const Value& one_case, const Value& conversation) {
  std::vector<std::pair<std::string, Value>> variables = {
      {"messages", *conversation.Find("messages")},
      {"tools", *conversation.Find("tools")},
      {"documents", Value::None()},
      {"add_generation_prompt", *one_case.Find("add_generation_prompt")},
      {"bos_token", Value::String(TextOf(one_case, "bos_token"))},
      {"eos_token", Value::String(TextOf(one_case, "eos_token"))},
  };
  Value all = Value::Dict(std::move(variables));
  jinja::DictHeap* heap = all.heap<jinja::DictHeap>();
  for (const auto& [key, value] : conversation.Find("extra")->heap<jinja::DictHeap>()->entries()) heap->Set(key, value);
  return all;
}

class PublishedTemplates : public ::testing::TestWithParam<bool> {};

TEST_P(PublishedTemplates, RenderAsTheReferenceEngineDoes) {
  const bool mark_input = GetParam();
  ASSERT_OK_AND_ASSIGN(const Value golden,
                       ParseJsonValue(testing::ReadFile(testing::GoldenPath("chat_templates/cases.json")), mark_input));
  const absl::CivilSecond now(2025, 7, 4, 12, 34, 56);
  ASSERT_EQ(TextOf(golden, "now"), "2025-07-04T12:34:56");
  std::map<std::string, std::unique_ptr<const ChatTemplate>> templates;
  int rendered = 0, refused = 0, absent = 0;
  for (const Value& one_case : golden.Find("cases")->items()) {
    const std::string name = TextOf(one_case, "template");
    SCOPED_TRACE(absl::StrCat(name, " / ", TextOf(one_case, "conversation")));
    const std::string path = testing::SharedDataPath(absl::StrCat("chat_templates/", name));
    if (path.empty()) {
      ++absent;
      continue;
    }
    auto& compiled = templates[name];
    if (compiled == nullptr) {
      ASSERT_OK_AND_ASSIGN(compiled, ChatTemplate::Compile(testing::ReadFile(path)));
    }
    const Value* conversation = golden.Find("conversations")->Find(TextOf(one_case, "conversation"));
    ASSERT_NE(conversation, nullptr);
    const auto result = compiled->Render(Variables(one_case, *conversation), now);
    if (const Value* error = one_case.Find("error")) {
      ASSERT_FALSE(result.ok()) << "printed: " << result->text;
      EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
      const bool raised = TextOf(*error, "kind") == "raise_exception";
      EXPECT_EQ(RaisedByTemplate(result.status()), raised) << result.status();
      if (raised) {
        EXPECT_EQ(std::string(result.status().message()), TextOf(*error, "message"));
      }
      ++refused;
    } else {
      ASSERT_OK(result);
      EXPECT_EQ(result->text, TextOf(one_case, "expected"));
      std::string joined;
      for (const TextSegment& segment : result->segments) {
        EXPECT_FALSE(segment.text.empty());
        joined += segment.text;
      }
      EXPECT_EQ(joined, result->text);
      ++rendered;
    }
  }
  if (absent > 0) {
    EXPECT_EQ(rendered + refused + absent, 390);
    GTEST_SKIP() << absent << " of 390 cases need chat_templates/*.jinja, which are not here";
  }
  EXPECT_EQ(rendered, 314);
  EXPECT_EQ(refused, 76);
}

INSTANTIATE_TEST_SUITE_P(TrustedAndMarked, PublishedTemplates, ::testing::Bool());

}  // namespace
}  // namespace dunlin::model
