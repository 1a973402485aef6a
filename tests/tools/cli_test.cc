// The `dunlin` command line as a user meets it: exit codes, what errors name, and the golden data of the tokenizer and
// of the chat templates.
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/test_data.h"
#include "tests/tools/run_command.h"

namespace dunlin::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const char* const kCommands[] = {"serve", "generate", "info", "tokenize", "template", "bench", "health"};

CommandResult Dunlin(const std::vector<std::string>& args, const std::string& input = "") {
  return RunCommand(DUNLIN_BIN "/dunlin", args, input);
}

TEST(CliTest, HelpNamesEveryCommandAndEveryCommandHasHelp) {
  const CommandResult help = Dunlin({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* command : kCommands) {
    EXPECT_THAT(help.out, HasSubstr(command));
    const CommandResult one = Dunlin({command, "--help"});
    EXPECT_EQ(one.exit_code, 0) << command;
    EXPECT_THAT(one.out, HasSubstr("--")) << command;
    EXPECT_THAT(one.err, IsEmpty()) << command;
  }
}

TEST(CliTest, TheServersHaveHelpAndPrintTheirConfiguration) {
  for (const char* server : {"dunlin-gateway", "dunlin-worker"}) {
    const std::string program = absl::StrCat(DUNLIN_BIN, "/", server);
    EXPECT_THAT(RunCommand(program, {"--help"}).out, HasSubstr("--model")) << server;
    const CommandResult printed = RunCommand(program, {"--print-config", "--host", "127.0.0.9"});
    EXPECT_EQ(printed.exit_code, 0) << server;
    EXPECT_THAT(printed.out, HasSubstr("host: \"127.0.0.9\"")) << server;
  }
}

TEST(CliTest, BadUsageIsExitCodeTwoAndSaysWhatIsWrong) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "subcommand"},
      {{"serve"}, "--model"},
      {{"serve", "--modle", "x"}, "--model"},
      {{"serve", "--grpc-port", "70000", "--model", "x"}, "grpc-port"},
      {{"serve", "--kv-cache-dtype", "fp4", "--model", "x"}, "fp8_e4m3"},
      {{"serve", "--json", "--model", "x"}, "--dry-run"},
      {{"serve", "--block-size", "12", "--model", "x"}, "8, 16, 32, 64"},
      {{"generate", "hi"}, "--address"},
      {{"generate", "--address", "x", "--max-tokens", "-5", "hi"}, "--max-tokens"},
      {{"generate", "--address", "x", "--no-such-flag", "hi"}, "--no-such-flag"},
      {{"tokenize"}, "--model"},
      {{"template"}, "--file"},
      {{"info"}, "file"},
  };
  for (const auto& [args, named] : cases) {
    const CommandResult result = Dunlin(args);
    EXPECT_EQ(result.exit_code, 2) << absl::StrJoin(args, " ");
    EXPECT_THAT(result.err, HasSubstr(named)) << absl::StrJoin(args, " ");
    EXPECT_THAT(result.out, IsEmpty()) << absl::StrJoin(args, " ");
  }
}

TEST(CliTest, AFileThatIsNotThereOrNoModelIsNamed) {
  const std::string no_model = GoldenPath("models.json");
  for (const std::string& path : {std::string("/nowhere/model.gguf"), no_model}) {
    for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{{"info", path},
                                                                                      {"tokenize", "--model", path},
                                                                                      {"template", "--model", path},
                                                                                      {"bench", "--model", path}}) {
      const CommandResult result = Dunlin(args, "{}");
      EXPECT_EQ(result.exit_code, 1) << args[0] << " " << path;
      EXPECT_THAT(result.err, HasSubstr(args[0])) << path;
      EXPECT_THAT(result.out, IsEmpty()) << args[0] << " " << path;
    }
  }
  EXPECT_THAT(Dunlin({"info", "/nowhere/model.gguf"}).err, HasSubstr("/nowhere/model.gguf"));
}

TEST(CliTest, AServerThatIsNotThereIsNamed) {
  // Port 1 is never ours to bind, so nothing of these tests listens there.
  EXPECT_EQ(Dunlin({"health", "--address", "127.0.0.1:1", "--timeout", "0.2"}).exit_code, 1);
  const CommandResult generate = Dunlin({"generate", "--address", "127.0.0.1:1", "--timeout", "5", "hi"});
  EXPECT_EQ(generate.exit_code, 1);
  EXPECT_THAT(generate.err, HasSubstr("127.0.0.1:1"));
  EXPECT_THAT(generate.out, IsEmpty());
}

TEST(CliTest, ACheckpointFolderIsAModelToo) {
  const std::string folder = GoldenPath("gptq_tiny");
  EXPECT_THAT(Dunlin({"info", folder}).out, AllOf(HasSubstr("GPTQ 4-bit, groups of 128"), HasSubstr("runs on this")));
  const json expected = json::parse(ReadFile(GoldenPath("gptq_tiny/expected.json")));
  const CommandResult tokens =
      Dunlin({"tokenize", "--json", "--model", folder}, expected.at("text").get<std::string>());
  ASSERT_EQ(tokens.exit_code, 0) << tokens.err;
  auto want = expected.at("prompt_ids").get<std::vector<int>>();
  want.erase(want.begin());  // BOS, which this tokenizer does not add
  EXPECT_EQ(json::parse(tokens.out).at("ids").get<std::vector<int>>(), want);
  const CommandResult bench = Dunlin({"bench", "--model", folder, "--prefill", "16", "--decode", "4", "--depth", "0",
                                      "--batch", "1", "--repeat", "1", "--threads", "1"});
  EXPECT_EQ(bench.exit_code, 0) << bench.err;
  EXPECT_THAT(bench.out, HasSubstr("GPTQ 4-bit"));
  const CommandResult nothing = Dunlin({"info", GoldenPath("dequant")});
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_THAT(nothing.err, HasSubstr("no config.json"));
}

class ModelCliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = DefaultModelPath();
    if (model_.empty()) GTEST_SKIP() << "the default model file is absent";
  }
  std::string model_;
};

std::vector<int> Ids(const std::string& text) {
  std::vector<int> ids;
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    int id = -1;
    EXPECT_TRUE(absl::SimpleAtoi(word, &id)) << word;
    ids.push_back(id);
  }
  return ids;
}

TEST_F(ModelCliTest, TokenizeGivesTheGoldenIdsAndDetokenizeTheText) {
  const json golden = json::parse(ReadFile(GoldenPath("tokenizer/smollm2-instruct-cases.json")));
  std::set<std::string> seen;  // one case of each category: every call loads a vocabulary
  for (const json& c : golden.at("cases")) {
    if (c.contains("lossy") || !seen.insert(c.at("category")).second) continue;
    const std::string text = c.at("text");
    const auto ids = c.at("ids").get<std::vector<int>>();
    EXPECT_EQ(Ids(Dunlin({"tokenize", "--model", model_}, text).out), ids) << c.at("category");
    EXPECT_EQ(Ids(Dunlin({"tokenize", "--model", model_, "--no-bos", "--no-parse-special"}, text).out),
              c.at("ids_no_special").get<std::vector<int>>())
        << c.at("category");
    EXPECT_EQ(Dunlin({"tokenize", "--model", model_, "--detokenize"}, absl::StrJoin(ids, " ")).out, text)
        << c.at("category");
  }
  EXPECT_GE(seen.size(), 20u);
}

TEST_F(ModelCliTest, ADryRunOfServeIsItsWorkersPlan) {
  const CommandResult one = Dunlin({"serve", "--dry-run", "--json", "--model", model_});
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const json plan = json::parse(one.out);
  EXPECT_EQ(plan.at("page_bytes"), 188160);
  EXPECT_EQ(plan.at("max_model_len"), 8192);
  const CommandResult two = Dunlin({"serve", "--dry-run", "--json", "--workers=2", "--model", model_});
  EXPECT_LT(json::parse(two.out).at("budget_bytes").get<double>(), 0.51 * plan.at("memory_bytes").get<double>());
  const CommandResult refused = Dunlin({"serve", "--dry-run", "--kv-cache-memory-bytes=1m", "--model", model_});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--max-model-len 80 would fit"));
}

TEST_F(ModelCliTest, TokenizeJsonGivesIdsAndPieces) {
  const CommandResult result = Dunlin({"tokenize", "--model", model_, "--json"}, "Hello <|im_end|> world");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json reply = json::parse(result.out);
  EXPECT_EQ(reply.at("ids"), json({19556, 216, 2, 905}));
  EXPECT_EQ(reply.at("pieces"), json({"Hello", " ", "<|im_end|>", " world"}));
}

TEST_F(ModelCliTest, IdsThatAreNoneAreNamedWithTheLimit) {
  for (const char* bad : {"49152", "-1", "one", "1.5", "99999999999999999999"}) {
    const CommandResult result = Dunlin({"tokenize", "--model", model_, "--detokenize"}, absl::StrCat("1 ", bad));
    EXPECT_EQ(result.exit_code, 1) << bad;
    EXPECT_THAT(result.err, AllOf(HasSubstr(bad), HasSubstr("49151")));
    EXPECT_THAT(result.out, IsEmpty());
  }
  const CommandResult invalid = Dunlin({"tokenize", "--model", model_}, "ab\xff");
  EXPECT_EQ(invalid.exit_code, 1);
  EXPECT_THAT(invalid.err, HasSubstr("2"));  // the byte's offset
}

TEST_F(ModelCliTest, TheModelsOwnTemplateRendersAConversation) {
  const std::string variables = R"({"messages": [{"role": "user", "content": "What is the weather like in Oslo?"}],
                                    "add_generation_prompt": true})";
  EXPECT_EQ(Dunlin({"template", "--model", model_}, variables).out,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWhat is the weather like in Oslo?<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ModelCliTest, InfoDescribesTheModelForPeopleAndPrograms) {
  EXPECT_THAT(Dunlin({"info", model_}).out, AllOf(HasSubstr("llama"), HasSubstr("Q4_1")));
  EXPECT_TRUE(json::parse(Dunlin({"info", "--json", model_}).out).is_object());
}

// A template of ours; the published ones have their own test.
class TemplateCliTest : public ::testing::Test {
 protected:
  CommandResult Render(const std::string& source, const std::string& variables, std::vector<std::string> more = {}) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/cli_test.jinja");
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    EXPECT_NE(file, nullptr);
    std::fwrite(source.data(), 1, source.size(), file);
    std::fclose(file);
    more.insert(more.begin(), {"template", "--file", path});
    return Dunlin(more, variables);
  }
};

TEST_F(TemplateCliTest, VariablesComeFromStdin) {
  const CommandResult result =
      Render("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}",
             R"({"bos_token": "<s>", "messages": [{"role": "user", "content": "hi"}]})");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "<s>[user] hi");
}

TEST_F(TemplateCliTest, TheClockCanBeFixed) {
  EXPECT_EQ(Render("{{ strftime_now('%d %b %Y') }}", "{}", {"--now", "2024-07-26T12:00:00"}).out, "26 Jul 2024");
  const CommandResult bad = Render("x", "{}", {"--now", "yesterday"});
  EXPECT_NE(bad.exit_code, 0);
  EXPECT_THAT(bad.err, HasSubstr("yesterday"));
}

TEST_F(TemplateCliTest, ATemplatesOwnErrorIsExitCodeOneWithItsMessage) {
  const CommandResult raised = Render("{{ raise_exception('roles must alternate') }}", "{}");
  EXPECT_EQ(raised.exit_code, 1);
  EXPECT_THAT(raised.err, HasSubstr("roles must alternate"));
  EXPECT_THAT(raised.out, IsEmpty());
  EXPECT_EQ(Render("{% if %}", "{}").exit_code, 1);
  EXPECT_EQ(Render("x", "{\"messages\": ").exit_code, 1);
}

}  // namespace
}  // namespace dunlin::testing
