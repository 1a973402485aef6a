// Small templates of our own, each about one piece of Jinja's or Python's behaviour, against what the reference engine
// printed (tests/golden/chat_templates/own_cases.json, written by make_own_cases.py).
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

std::string TextOf(const Value& object, absl::string_view key) {
  const Value* v = object.Find(key);
  return v != nullptr && v->is_string() ? v->text().bytes() : "";
}

class OwnCases : public ::testing::TestWithParam<bool> {};

TEST_P(OwnCases, AgreeWithTheReferenceEngine) {
  ASSERT_OK_AND_ASSIGN(const Value golden,
                       ParseJsonValue(testing::ReadFile(testing::GoldenPath("chat_templates/own_cases.json")),
                                      /*mark_input=*/GetParam()));
  const absl::CivilSecond now(2024, 2, 29, 5, 6, 7);
  ASSERT_EQ(TextOf(golden, "now"), "2024-02-29T05:06:07");
  size_t checked = 0;
  for (const Value& one_case : golden.Find("cases")->items()) {
    const std::string source = TextOf(one_case, "template");
    SCOPED_TRACE(absl::StrCat(TextOf(one_case, "name"), ": ", source));
    const Value* error = one_case.Find("error");
    const std::string kind = error != nullptr ? TextOf(*error, "kind") : "";
    ++checked;
    const auto compiled = ChatTemplate::Compile(source);
    if (kind == "syntax") {
      EXPECT_FALSE(compiled.ok()) << TextOf(*error, "python_message");
      continue;
    }
    EXPECT_OK(compiled);
    if (!compiled.ok()) continue;
    const auto result = (*compiled)->Render(*golden.Find("variables"), now);
    if (error == nullptr) {
      EXPECT_OK(result);
      if (result.ok()) {
        EXPECT_EQ(result->text, TextOf(one_case, "expected"));
      }
      continue;
    }
    EXPECT_FALSE(result.ok()) << "printed " << result->text << " where Python says "
                              << TextOf(*error, "python_message");
    EXPECT_EQ(RaisedByTemplate(result.status()), kind == "raise_exception") << result.status();
    if (kind == "raise_exception") {
      EXPECT_EQ(std::string(result.status().message()), TextOf(*error, "message"));
    }
  }
  EXPECT_GT(checked, 190u);
}

INSTANTIATE_TEST_SUITE_P(TrustedAndMarked, OwnCases, ::testing::Bool());

}  // namespace
}  // namespace dunlin::model
