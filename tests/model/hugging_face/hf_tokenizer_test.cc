// tokenizer.json against ids that the reference implementation gave, and what its members become.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/hugging_face/open_model.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

using dunlin::testing::Checkpoint;
using dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST(HuggingFaceTokenizer, IdsAreThoseOfTheReferenceImplementation) {
  ASSERT_OK_AND_ASSIGN(const auto file, OpenModel(testing::GoldenPath("gptq_tiny")));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Create(file->gguf()));
  const Json expected = Json::parse(testing::ReadFile(testing::GoldenPath("gptq_tiny/expected.json")));
  auto want = expected.at("prompt_ids").get<std::vector<TokenId>>();
  ASSERT_EQ(want.front(), tokenizer->bos_id());
  want.erase(want.begin());
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, tokenizer->Encode(expected.at("text").get<std::string>(), {}));
  EXPECT_EQ(ids, want);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->vocab_size(), 288);
  EXPECT_TRUE(tokenizer->IsControl(0));
  EXPECT_FALSE(tokenizer->IsControl(2));
}

// All bytes, one merge, and three added tokens.
Checkpoint WithTokenizer() {
  Checkpoint c;
  Json vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteSpelling(static_cast<uint8_t>(byte))] = byte;
  vocabulary["he"] = 256;
  c.tokenizer = {{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"h e"}}}},
                 {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                 {"added_tokens",
                  {{{"id", 257}, {"content", "<s>"}, {"special", true}},
                   {{"id", 258}, {"content", "</s>"}, {"special", true}},
                   {{"id", 259}, {"content", "<tool>"}, {"special", false}}}}};
  c.tokenizer_config = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
  c.config["vocab_size"] = 262;
  return c;
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(Checkpoint c) {
  const absl::StatusOr<HfModel> model = c.Describe();
  if (!model.ok()) return model.status();
  return Tokenizer::Create(model->description.gguf);
}

TEST(HuggingFaceTokenizer, MembersBecomeTheVocabulary) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Create(WithTokenizer()));
  EXPECT_EQ(tokenizer->vocab_size(), 262);
  EXPECT_EQ(tokenizer->bos_id(), 257);
  EXPECT_EQ(tokenizer->eos_id(), 258);
  EXPECT_FALSE(tokenizer->add_bos());
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, tokenizer->Encode("he<tool>h</s>", {true, true}));
  EXPECT_THAT(ids, ElementsAre(256, 259, 'h', 258));
}

TEST(HuggingFaceTokenizer, MergesMayBePairs) {
  Checkpoint c = WithTokenizer();
  c.tokenizer["model"]["merges"] = Json::array({Json::array({"h", "e"})});
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Create(c));
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, tokenizer->Encode("he", {}));
  EXPECT_THAT(ids, ElementsAre(256));
}

TEST(HuggingFaceTokenizer, ThePostProcessorSaysWhatIsAddedElseTheConfigDoes) {
  Checkpoint c = WithTokenizer();
  c.tokenizer_config["add_eos_token"] = true;
  c.tokenizer["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}}}}}};
  ASSERT_OK_AND_ASSIGN(const auto by_template, Create(c));
  EXPECT_TRUE(by_template->add_bos());
  EXPECT_FALSE(by_template->add_eos());
  c.tokenizer.erase("post_processor");
  ASSERT_OK_AND_ASSIGN(const auto by_config, Create(c));
  EXPECT_FALSE(by_config->add_bos());
  EXPECT_TRUE(by_config->add_eos());
}

TEST(HuggingFaceTokenizer, EveryEndOfTheConfigEndsAGeneration) {
  Checkpoint c = WithTokenizer();
  c.tokenizer_config.erase("eos_token");
  c.config["eos_token_id"] = {258, 259};
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Create(c));
  EXPECT_THAT(tokenizer->end_of_generation(), ElementsAre(258, 259));
}

TEST(HuggingFaceTokenizer, PublishedPreTokenizersAreKnownByTheirDefinition) {
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto split = [](const std::string& digits) {
    const std::string expression = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
                                   "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    return Json{{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const auto name = [](Checkpoint c, const Json& steps, bool ignore_merges) -> std::string {
    c.tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
    c.tokenizer["model"]["ignore_merges"] = ignore_merges;
    const auto tokenizer = Create(c);
    return tokenizer.ok() ? (*tokenizer)->pre_tokenizer() : std::string(tokenizer.status().message());
  };
  const Checkpoint c = WithTokenizer();
  EXPECT_EQ(name(c, Json::array({split("\\p{N}{1,3}"), bytes}), true), "llama-bpe");
  EXPECT_EQ(name(c, Json::array({split("\\p{N}"), bytes}), false), "qwen2");
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  EXPECT_EQ(name(c, Json::array({digits, c.tokenizer["pre_tokenizer"]}), false), "smollm");
  EXPECT_THAT(name(c, Json::array({split("\\p{N}{1,4}"), bytes}), false), HasSubstr("unknown pre-tokenizer"));
  EXPECT_THAT(name(c, Json::array({split("\\p{N}"), bytes}), true), HasSubstr("ignore_merges"));
}

TEST(HuggingFaceTokenizer, WhatThisBuildCannotTokeniseIsRefusedByTheTokenizerAlone) {
  const auto refuse = [](const char* patch, const char* why) {
    Checkpoint c = WithTokenizer();
    c.tokenizer.merge_patch(Json::parse(patch));
    ASSERT_OK_AND_ASSIGN(const HfModel model, c.Describe());
    EXPECT_THAT(Tokenizer::Create(model.description.gguf), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(why)))
        << patch;
  };
  refuse(R"({"model":{"type":"Unigram"}})", "Unigram");
  refuse(R"({"model":{"byte_fallback":true}})", "byte_fallback");
  refuse(R"({"model":{"end_of_word_suffix":"</w>"}})", "end_of_word_suffix");
  refuse(R"({"normalizer":{"type":"Lowercase"}})", "Lowercase");
  refuse(R"({"pre_tokenizer":null})", "\"none\"");
  refuse(R"({"pre_tokenizer":{"add_prefix_space":true}})", "add_prefix_space");
}

TEST(HuggingFaceTokenizer, WrongMembersAreNamed) {
  const auto refuse = [](const char* patch, const char* why) {
    Checkpoint c = WithTokenizer();
    c.tokenizer.merge_patch(Json::parse(patch));
    EXPECT_THAT(c.Describe(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why))) << patch;
  };
  refuse(R"({"model":null})", "'model' is missing");
  refuse(R"({"model":{"vocab":[]}})", "'model.vocab' is no object");
  refuse(R"({"model":{"vocab":{"h":262}}})", "the id of token \"h\" is 262; 0 to 261");
  refuse(R"({"model":{"vocab":{"h":-1}}})", "the id of token \"h\" is -1");
  refuse(R"({"model":{"merges":{}}})", "'model.merges' is no array");
  refuse(R"({"model":{"merges":[["h"]]}})", "'model.merges[0]'");
  refuse(R"({"added_tokens":[{"content":"x"}]})", "the id of token \"x\" is missing");
  refuse(R"({"added_tokens":[5]})", "the id of token \"\" is missing");
  Checkpoint c = WithTokenizer();
  c.config["vocab_size"] = int64_t{1} << 40;
  EXPECT_THAT(c.Describe(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'vocab_size'")));
}

TEST(HuggingFaceTokenizer, TheChatTemplateIsTheFilesElseTheDefaultOfTheConfig) {
  const auto source = [](Checkpoint c) -> std::string {
    const absl::StatusOr<HfModel> model = c.Describe();
    if (!model.ok()) return std::string(model.status().message());
    const auto text = model->description.gguf.GetString("tokenizer.chat_template");
    return text.ok() ? std::string(*text) : "none";
  };
  Checkpoint c = WithTokenizer();
  EXPECT_EQ(source(c), "none");
  c.tokenizer_config["chat_template"] = "one";
  EXPECT_EQ(source(c), "one");
  c.tokenizer_config["chat_template"] = {{{"name", "tool"}, {"template", "t"}},
                                         {{"name", "default"}, {"template", "d"}}};
  EXPECT_EQ(source(c), "d");
  c.chat_template = "file";
  EXPECT_EQ(source(c), "file");
}

}  // namespace
}  // namespace dunlin::model
