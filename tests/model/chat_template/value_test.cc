// ParseJsonValue and the text type.
#include "model/chat_template/value.h"

#include <initializer_list>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"
#include "model/chat_template/marked_text.h"
#include "model/chat_template/pystr.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What json.dumps makes of json.loads(text).
absl::StatusOr<std::string> RoundTrip(absl::string_view json) {
  absl::StatusOr<Value> v = ParseJsonValue(json, /*mark_input=*/false);
  if (!v.ok()) return v.status();
  const auto compiled = ChatTemplate::Compile("{{ v | tojson }}");
  return (*compiled)->Render(Value::Dict({{"v", *v}}), absl::CivilSecond())->text;
}

TEST(ParseJsonValue, ReadsAndPrintsNumbersAsPythonDoes) {
  const std::pair<const char*, const char*> kNumbers[] = {
      {"0", "0"},
      {"-0", "0"},
      {"-0.0", "-0.0"},
      {"1.0", "1.0"},
      {"1e-05", "1e-05"},
      {"0.0001", "0.0001"},
      {"-4.5", "-4.5"},
      {"1E5", "100000.0"},
      {"1e16", "1e+16"},
      {"123456789012345.0", "123456789012345.0"},
      {"9223372036854775807", "9223372036854775807"},
      {"-9223372036854775808", "-9223372036854775808"},
      {"9223372036854775808", "9223372036854775808"},
      {"-123456789012345678901234567890", "-123456789012345678901234567890"},
      {"1e400", "Infinity"},
      {"-1e400", "-Infinity"},
      {"1e-400", "0.0"},
      {"5e-324", "5e-324"},
      {"0.1", "0.1"},
      {"100.0", "100.0"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
  };
  for (const auto& [text, printed] : kNumbers) {
    ASSERT_OK_AND_ASSIGN(const std::string got, RoundTrip(text));
    EXPECT_EQ(got, printed) << text;
  }
}

TEST(ParseJsonValue, KeepsTheOrderOfKeysAndTheLastOfRepeatedValues) {
  EXPECT_EQ(*RoundTrip(R"({"z":1,"a":{"y":[],"b":{}},"z":2})"), R"({"z": 2, "a": {"y": [], "b": {}}})");
}

TEST(ParseJsonValue, FindsEveryKeyOfALargeObject) {
  std::string json = "{";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&json, i > 0 ? "," : "", "\"k", i, "\":", i);
  ASSERT_OK_AND_ASSIGN(const Value v, ParseJsonValue(json + "}", false));
  for (int i = 0; i < 1000; ++i) {
    const Value* found = v.Find(absl::StrCat("k", i));
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->integer(), i);
  }
  EXPECT_EQ(v.Find("k1000"), nullptr);
}

TEST(ParseJsonValue, DecodesEscapes) {
  EXPECT_EQ(*RoundTrip(R"("\u00e9\ud83d\ude00\n\/\"\\\u0001")"), "\"é😀\\n/\\\"\\\\\\u0001\"");
}

TEST(ParseJsonValue, MarksStringsAndKeysWhenAsked) {
  ASSERT_OK_AND_ASSIGN(const Value marked, ParseJsonValue(R"(["a"])", true));
  EXPECT_TRUE(marked.items()[0].text().has_input());
  ASSERT_OK_AND_ASSIGN(const Value plain, ParseJsonValue(R"(["a"])", false));
  EXPECT_FALSE(plain.items()[0].text().has_input());
}

TEST(ParseJsonValue, RefusesWhatIsNotJsonNamingThePosition) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1,]",
                           "{\"a\":1,}",
                           "{\"a\"}",
                           "{a:1}",
                           "01",
                           "1.",
                           ".5",
                           "-",
                           "+1",
                           "1e",
                           "nul",
                           "truex",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\n\"",
                           "1 2",
                           "NaN",
                           "Infinity",
                           "'a'",
                           "\"\xFF\"",
                           "[1}",
                           "{\"a\":1]",
                           "\xEF\xBB\xBF"
                           "1",
                           "[\"a\" \"b\"]"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(ParseJsonValue(text, false), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("JSON byte ")));
  }
}

TEST(ParseJsonValue, RefusesDeepNestingAndEndlessNumbers) {
  EXPECT_OK(ParseJsonValue(std::string(64, '[') + "1" + std::string(64, ']'), false));
  EXPECT_THAT(ParseJsonValue(std::string(65, '[') + "1" + std::string(65, ']'), false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64")));
  EXPECT_THAT(ParseJsonValue(std::string(1000000, '['), false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64")));
  EXPECT_OK(ParseJsonValue(std::string(4300, '9'), false));
  EXPECT_THAT(ParseJsonValue(std::string(4301, '9'), false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4300")));
}

TEST(Value, TellsItsDepth) {
  EXPECT_EQ(Value::Int(1).depth(), 0);
  EXPECT_EQ(Value::List({}).depth(), 1);
  EXPECT_EQ(Value::List({Value::Dict({{"a", Value::List({})}})}).depth(), 3);
}

TEST(MarkedText, SlicesAndJoinsItsMarks) {
  MarkedText text("ab", false);
  text.Append("CD", true);
  text.Append("EF", true);
  text.Append("gh", false);
  using Range = MarkedText::Range;
  EXPECT_THAT(text.input_ranges(), ElementsAre(Range{2, 6}));
  EXPECT_THAT(text.Slice(3, 7).input_ranges(), ElementsAre(Range{0, 3}));
  EXPECT_TRUE(text.Slice(0, 2).input_ranges().empty());
  EXPECT_FALSE(text.AnyInput(0, 2));
  EXPECT_TRUE(text.AnyInput(1, 3));
  EXPECT_TRUE(text.AnyInput(5, 8));
  EXPECT_FALSE(text.AnyInput(6, 8));
  MarkedText twice = text;
  twice.Append(text);
  EXPECT_THAT(twice.input_ranges(), ElementsAre(Range{2, 6}, Range{10, 14}));
  EXPECT_EQ(twice.view(), "abCDEFghabCDEFgh");
}

TEST(FloatRepr, PrintsTheShortestDigitsInPythonsLayout) {
  EXPECT_EQ(jinja::FloatRepr(0.1 + 0.2), "0.30000000000000004");
  EXPECT_EQ(jinja::FloatRepr(1e15), "1000000000000000.0");
  EXPECT_EQ(jinja::FloatRepr(1e16), "1e+16");
  EXPECT_EQ(jinja::FloatRepr(1.5e-5), "1.5e-05");
  EXPECT_EQ(jinja::FloatRepr(-1e-4), "-0.0001");
  EXPECT_EQ(jinja::FloatRepr(1e100), "1e+100");
  EXPECT_EQ(jinja::FloatRepr(std::numeric_limits<double>::infinity()), "inf");
  EXPECT_EQ(jinja::FloatRepr(std::numeric_limits<double>::quiet_NaN()), "nan");
}

TEST(FindText, AgreesWithThePlainSearchOnShortAndLongNeedles) {
  const std::string text = [] {
    std::string out;
    for (int i = 0; i < 2000; ++i) out += (i * i % 7 < 3) ? 'a' : 'b';
    return out;
  }();
  for (const size_t length : std::initializer_list<size_t>{1, 5, 16, 17, 40, 300}) {
    for (size_t begin = 0; begin + length <= text.size(); begin += 97) {
      const std::string needle = text.substr(begin, length);
      for (const size_t from : {size_t{0}, begin, begin + 1}) {
        EXPECT_EQ(jinja::FindText(text, needle, from), absl::string_view(text).find(needle, from));
      }
      EXPECT_EQ(jinja::FindText(text, needle + "c", 0), absl::string_view::npos);
    }
  }
}

}  // namespace
}  // namespace dunlin::model
