// What the interpreter refuses and how it says so: budgets, errors with lines, constructs outside the subset.
#include "model/chat_template/chat_template.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<std::string> Render(absl::string_view source, const Value& variables = Value::Dict({}),
                                   const ChatTemplateLimits& limits = {}) {
  absl::StatusOr<std::unique_ptr<const ChatTemplate>> compiled = ChatTemplate::Compile(source, limits);
  if (!compiled.ok()) return compiled.status();
  absl::StatusOr<ChatTemplate::Rendered> rendered = (*compiled)->Render(variables, absl::CivilSecond(2025, 1, 2));
  if (!rendered.ok()) return rendered.status();
  return rendered->text;
}

std::string Repeated(absl::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) absl::StrAppend(&out, text);
  return out;
}

// Every case must stop with the named budget; that they also stop soon is what the test's own time limit sees.
struct Hostile {
  const char* what;
  std::string source;
  const char* budget;
};

std::vector<Hostile> HostileTemplates() {
  const std::string bomb =
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
  const std::string text = "{% set s = 'ab' * 2000000 %}";
  return {
      {"nested loops", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "max_steps"},
      {"long text repetition", "{{ 'x' * 1000000000 }}", "max_output_bytes"},
      {"largest repetition", "{{ 'xy' * 9223372036854775807 }}", "max_output_bytes"},
      {"list repetition", "{{ ([1] * 9000000) | length }}", "max_output_bytes"},
      {"repetition of a repetition", "{{ [[1] * 4000] * 4000000 }}", "max_steps"},
      {"doubling", "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
       "max_output_bytes"},
      {"output", "{% for i in range(100000) %}" + Repeated("x", 200) + "{% endfor %}", "max_output_bytes"},
      {"many texts kept",
       "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ['x' * 1000000] %}{% endfor %}",
       "max_steps"},
      {"range", "{{ range(1000000000000) }}", "max range"},
      {"join", "{{ range(100000) | join('x' * 1000) }}", "max_output_bytes"},
      {"replace", "{{ ('a' * 100000).replace('a', 'b' * 1000) }}", "max_output_bytes"},
      {"centre", "{{ 'x'.center(1000000000000) }}", "max_output_bytes"},
      {"zfill", "{{ '1'.zfill(9223372036854775807) }}", "max_output_bytes"},
      {"format width", "{{ '%999999999d' % 1 }}", "max_output_bytes"},
      {"brace width", "{{ '{:>999999999}'.format(1) }}", "max_output_bytes"},
      {"indent", "{{ ('\n' * 100000) | indent(100000, blank=true) }}", "max_output_bytes"},
      {"indent width", "{{ 'a' | indent(9223372036854775807) }}", "max_output_bytes"},
      {"json indent", "{{ [[[[1]]]] | tojson(indent=100000000) }}", "max_output_bytes"},
      {"batch", "{{ [1] | batch(100000000000, 'x') | list }}", "max_output_bytes"},
      {"slice", "{{ [1] | slice(100000000000) | list }}", "max_output_bytes"},
      {"shared lists printed", bomb + "{{ ns.l }}", "max_"},
      {"shared lists as JSON", bomb + "{{ ns.l | tojson }}", "max_"},
      {"shared lists compared", bomb + "{% set a = ns.l %}" + bomb + "{{ a == ns.l }}", "max_steps"},
      {"shared lists with empty texts",
       "{% set ns = namespace(l='') %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | "
       "tojson | length }}",
       "max_"},
      {"list nesting", "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}",
       "max_depth"},
      {"dict nesting",
       "{% set ns = namespace(l={}) %}{% for i in range(1000) %}{% set ns.l = {'a': ns.l} %}{% endfor %}", "max_depth"},
      {"dict() nesting",
       "{% set ns = namespace(l={}) %}{% for i in range(1000) %}{% set ns.l = dict(a=ns.l) %}{% endfor %}",
       "max_depth"},
      {"nesting by filters",
       "{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}{% set ns.l = ns.l | batch(1) %}{% endfor %}",
       "max_depth"},
      {"nesting by kwargs",
       "{% macro m() %}{% set ns.l = kwargs %}{% endmacro %}{% set ns = namespace(l=1) %}{% for i in range(1000) %}{{ "
       "m(a=ns.l) }}{% endfor %}",
       "max_depth"},
      {"nesting by varargs",
       "{% macro m() %}{% set ns.l = varargs %}{% endmacro %}{% set ns = namespace(l=1) %}{% for i in range(1000) %}{{ "
       "m(ns.l) }}{% endfor %}",
       "max_depth"},
      {"macro recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "max_depth"},
      {"caller recursion", "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
       "max_depth"},
      {"loop recursion", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "max_depth"},
      {"parentheses", "{{ " + Repeated("(", 5000) + "1" + Repeated(")", 5000) + " }}", "max_depth"},
      {"brackets", "{{ " + Repeated("[", 5000) + Repeated("]", 5000) + " }}", "max_depth"},
      {"not not", "{{ " + Repeated("not ", 5000) + "1 }}", "max_depth"},
      {"minus minus", "{{ " + Repeated("-", 5000) + "1 }}", "max_depth"},
      {"attribute chain", "{{ a" + Repeated(".b", 5000) + " }}", "max_depth"},
      {"filter chain", "{{ a" + Repeated("|upper", 5000) + " }}", "max_depth"},
      {"call chain", "{{ a" + Repeated("()", 5000) + " }}", "max_depth"},
      {"conditional chain", "{{ 1" + Repeated(" if 1 else 1", 5000) + " }}", "max_depth"},
      {"if nesting", Repeated("{% if 1 %}", 5000), "max_depth"},
      {"for nesting", Repeated("{% for x in y %}", 5000), "max_depth"},
      {"search", text + "{% for i in range(100000) %}{{ s.find('b' * 1000) }}{% endfor %}", "max_steps"},
      {"containment", text + "{% for i in range(100000) %}{{ 'bb' in s }}{% endfor %}", "max_steps"},
      {"upper", text + "{% for i in range(100000) %}{{ (s | upper)[0] }}{% endfor %}", "max_steps"},
      {"split", text + "{% for i in range(100) %}{{ s.split('a') | length }}{% endfor %}", "max_steps"},
      {"characters", text + "{% for c in s %}{% endfor %}", "max_steps"},
      {"sort", "{% for i in range(1000) %}{{ range(50000) | sort | length }}{% endfor %}", "max_steps"},
      {"namespaces",
       "{% for i in range(100000) %}{% for j in range(100) %}{% set x = namespace(a=1) %}{% endfor %}{% endfor %}",
       "max_steps"},
      {"closures",
       "{% for i in range(100000) %}{% for j in range(100) %}{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}",
       "max_steps"},
  };
}

TEST(ChatTemplateBudgets, StopEveryHostileTemplateAndNameWhatRanOut) {
  for (const Hostile& hostile : HostileTemplates()) {
    SCOPED_TRACE(hostile.what);
    EXPECT_THAT(Render(hostile.source),
                StatusIs(absl::StatusCode::kResourceExhausted, AllOf(StartsWith("line "), HasSubstr(hostile.budget))));
  }
}

TEST(ChatTemplateBudgets, LeaveRoomForWhatRealTemplatesNest) {
  EXPECT_OK(Render("{% macro f(n) %}{% if n > 0 %}{{ 'x' + f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}"));
  EXPECT_OK(Render("{{ 1" + Repeated(" + 1", 5000) + " }}"));
  EXPECT_OK(Render("{{ 'a'" + Repeated(" ~ 'a'", 5000) + " }}"));
  EXPECT_OK(Render("{{ 1" + Repeated(" and 1", 5000) + " }}"));
  EXPECT_OK(Render("{% if 0 %}" + Repeated("{% elif 0 %}", 5000) + "{% endif %}"));
  EXPECT_OK(Render("{{ " + Repeated("(", 50) + "1" + Repeated(")", 50) + " }}"));
}

TEST(ChatTemplateBudgets, AreTheCallersToSet) {
  ChatTemplateLimits limits;
  limits.max_steps = 100;
  EXPECT_THAT(Render("{% for i in range(90) %}{{ i }}{% endfor %}", Value::Dict({}), limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_steps = 100")));
  limits = {};
  limits.max_output_bytes = 10;
  EXPECT_OK(Render("0123456789", Value::Dict({}), limits));
  EXPECT_THAT(Render("0123456789x", Value::Dict({}), limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_output_bytes = 10")));
  limits = {};
  limits.max_template_bytes = 3;
  EXPECT_OK(Render("abc", Value::Dict({}), limits));
  EXPECT_THAT(Render("abcd", Value::Dict({}), limits),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4 bytes, more than max_template_bytes = 3")));
}

TEST(ChatTemplateErrors, NameTheLine) {
  EXPECT_THAT(Render("a\nb\n{{ 1 / 0 }}"), StatusIs(absl::StatusCode::kInvalidArgument, "line 3: division by zero"));
  EXPECT_THAT(Render("\n\n{% if x.y.z %}{% endif %}"),
              StatusIs(absl::StatusCode::kInvalidArgument, "line 3: 'x' is undefined"));
  EXPECT_THAT(Render("{{ 1 }}\n{{ 'a' +\n 1 }}"),
              StatusIs(absl::StatusCode::kInvalidArgument, "line 2: can only concatenate str (not \"int\") to str"));
  EXPECT_THAT(Render("x\r\n{% endif %}"), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("line 2: ")));
  EXPECT_THAT(Render("{# \n\n #}{{ ? }}"), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("line 3: ")));
}

TEST(ChatTemplateErrors, ARefusalByTheTemplateIsItsOwnTextAlone) {
  const auto refused = Render("\n\n{{ raise_exception('only \"user\" roles, got ' ~ 3) }}");
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument, "only \"user\" roles, got 3"));
  EXPECT_TRUE(RaisedByTemplate(refused.status()));
  EXPECT_FALSE(RaisedByTemplate(Render("{{ 1 / 0 }}").status()));
  EXPECT_FALSE(RaisedByTemplate(absl::OkStatus()));
}

TEST(ChatTemplateErrors, SayWhatIsOutsideTheSubset) {
  for (const char* source :
       {"{% include 'x' %}", "{% extends 'x' %}", "{% block b %}{% endblock %}", "{% import 'x' as y %}",
        "{% autoescape true %}{% endautoescape %}", "{{ x | urlize }}", "{{ x is frobnicated }}", "{{ 'a'.encode() }}",
        "{{ '\\N{BULLET}' }}", "{{ '%c' % 65 }}"}) {
    SCOPED_TRACE(source);
    EXPECT_THAT(Render(source), StatusIs(absl::StatusCode::kUnimplemented, StartsWith("line 1: ")));
  }
}

TEST(ChatTemplateErrors, RefuseAnIntegerThatDoesNotFitRatherThanWrap) {
  for (const char* expression :
       {"9223372036854775807 + 1", "-9223372036854775807 - 2", "9223372036854775807 * 2", "2 ** 63", "10 ** 1000",
        "-(-9223372036854775807 - 1)", "(-9223372036854775807 - 1) // -1", "123456789012345678901 + 1",
        "(-9223372036854775807 - 1) | abs"}) {
    SCOPED_TRACE(expression);
    EXPECT_THAT(Render(absl::StrCat("{{ ", expression, " }}")),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64 bits")));
  }
  EXPECT_EQ(*Render("{{ (-9223372036854775807 - 1) % -1 }},{{ 9223372036854775807 }}"), "0,9223372036854775807");
}

TEST(ChatTemplate, RejectsSourceThatIsNotUtf8) {
  EXPECT_THAT(Render("a\xFFz"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
}

TEST(ChatTemplate, SurvivesVariablesThatAreNotUtf8) {
  const Value variables = Value::Dict({{"x", Value::Input("a\xFF\xC3(\xE2\x82z\xF0\x9F")}});
  for (const char* expression : {"x", "x[::-1]", "x | upper", "x | tojson", "[x]", "x.split()", "x | list", "x | title",
                                 "x | length", "x[1]", "x | trim", "x.replace('', '-')", "x | e", "x | sort"}) {
    SCOPED_TRACE(expression);
    EXPECT_OK(Render(absl::StrCat("{{ ", expression, " }}"), variables));
  }
  EXPECT_EQ(*Render("{{ x | upper }}", variables), "A\xFF\xC3(\xE2\x82Z\xF0\x9F");
}

TEST(ChatTemplate, RendersTheSameEveryTimeAndKeepsNothing) {
  ASSERT_OK_AND_ASSIGN(const auto compiled,
                       ChatTemplate::Compile("{% set ns = namespace(n=0) %}{% set ns.self = ns %}{% set y = x %}"
                                             "{% macro m() %}{{ ns.n }}{{ m is callable }}{% endmacro %}"
                                             "{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% set ns.l = loop %}"
                                             "{{ loop.changed(loop) }}{{ m() }}{% endfor %}{{ y }}"));
  const Value variables = Value::Dict({{"x", Value::String("v")}});
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const auto rendered, compiled->Render(variables, absl::CivilSecond()));
    EXPECT_EQ(rendered.text, "True1TrueFalse3Truev");
  }
}

TEST(ChatTemplate, WantsAnObjectOfVariables) {
  EXPECT_THAT(Render("x", Value::List({})), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("object")));
}

TEST(ChatTemplate, LetsVariablesReplaceGlobalFunctions) {
  EXPECT_EQ(*Render("{{ range }}", Value::Dict({{"range", Value::String("mine")}})), "mine");
}

}  // namespace
}  // namespace dunlin::model
