#include "worker/service/new_sequences.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "proto/limits.h"
#include "tests/support/status_matchers.h"

namespace dunlin::worker {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RunnerInfo Runner() {
  RunnerInfo info;
  info.vocab_size = 100;
  info.max_model_len = 32;
  return info;
}

v1::GenerateRequest Good() {
  v1::GenerateRequest r;
  r.set_request_id("r");
  for (const uint32_t id : {1u, 2u, 3u}) r.add_prompt_ids(id);
  r.set_max_tokens(4);
  r.set_num_choices(1);
  return r;
}

absl::StatusOr<std::vector<NewSequence>> Make(const v1::GenerateRequest& r) {
  return MakeSequences(r, Runner(), absl::InfiniteFuture());
}

TEST(NewSequences, AMinimalRequestBecomesOneSequenceWithDefaults) {
  ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> sequences, Make(Good()));
  ASSERT_EQ(sequences.size(), 1u);
  const NewSequence& s = sequences[0];
  EXPECT_THAT(s.prompt, ElementsAre(1, 2, 3));
  EXPECT_EQ(s.max_tokens, 4);
  EXPECT_EQ(s.sampling.temperature, 1.0f);
  EXPECT_EQ(s.sampling.penalty_last_n, -1);
  EXPECT_EQ(s.num_logprobs, -1);
  EXPECT_EQ(s.num_prompt_logprobs, -1);
  EXPECT_EQ(s.max_draft_tokens, INT32_MAX) << "as the engine does it";
  EXPECT_TRUE(s.cache_read && s.cache_write);
  EXPECT_EQ(s.max_time, absl::InfiniteDuration());
  EXPECT_NE(s.stream, nullptr);
}

TEST(NewSequences, EveryFieldArrives) {
  v1::GenerateRequest r = Good();
  r.set_min_tokens(2);
  r.set_ignore_eos(true);
  r.set_logprobs(3);
  r.mutable_max_time()->set_nanos(1'500'000);
  for (const uint32_t id : {9u, 5u, 9u}) r.add_stop_token_ids(id);
  r.set_cache_mode(dunlin::v1::Cache::MODE_READ_ONLY);
  r.set_cache_namespace(std::string(limits::kMaxCacheNamespaceBytes, 'n'));
  r.set_tenant(std::string(limits::kMaxTenantBytes, 't'));
  r.set_priority(-2);
  r.set_max_draft_tokens(0);
  dunlin::v1::Sampling* s = r.mutable_sampling();
  s->set_temperature(0);
  s->set_top_k(7);
  s->set_penalty_last_n(64);
  s->set_seed(11);
  (*s->mutable_logit_bias())[8] = 1.5f;
  (*s->mutable_logit_bias())[3] = -2.0f;
  for (const uint32_t id : {4u, 2u, 4u}) s->add_banned_token_ids(id);
  ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> sequences, Make(r));
  const NewSequence& n = sequences[0];
  EXPECT_EQ(n.min_tokens, 2);
  EXPECT_TRUE(n.ignore_eos);
  EXPECT_EQ(n.num_logprobs, 3);
  EXPECT_EQ(n.max_time, absl::Microseconds(1500));
  EXPECT_THAT(n.stop_tokens, ElementsAre(5, 9));
  EXPECT_TRUE(n.cache_read);
  EXPECT_FALSE(n.cache_write);
  EXPECT_EQ(n.cache_namespace, std::string(limits::kMaxCacheNamespaceBytes, 'n'));
  EXPECT_EQ(n.tenant, std::string(limits::kMaxTenantBytes, 't'));
  EXPECT_EQ(n.priority, -2);
  EXPECT_EQ(n.max_draft_tokens, 0);
  EXPECT_EQ(n.sampling.temperature, 0.0f);
  EXPECT_EQ(n.sampling.top_k, 7);
  EXPECT_EQ(n.sampling.penalty_last_n, 64);
  EXPECT_EQ(n.sampling.seed, 11u);
  ASSERT_EQ(n.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(n.sampling.logit_bias[0].id, 3);
  EXPECT_EQ(n.sampling.logit_bias[1].id, 8);
  EXPECT_THAT(n.sampling.banned_tokens, ElementsAre(2, 4));
}

TEST(NewSequences, TheCacheModeSaysWhoReadsAndWrites) {
  using dunlin::v1::Cache;
  struct Row {
    Cache::Mode mode;
    bool read, write;
  };
  for (const Row& row : {Row{Cache::MODE_UNSPECIFIED, true, true}, Row{Cache::MODE_USE, true, true},
                         Row{Cache::MODE_READ_ONLY, true, false}, Row{Cache::MODE_BYPASS, false, false}}) {
    v1::GenerateRequest r = Good();
    r.set_cache_mode(row.mode);
    ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> sequences, Make(r));
    EXPECT_EQ(sequences[0].cache_read, row.read) << row.mode;
    EXPECT_EQ(sequences[0].cache_write, row.write) << row.mode;
  }
}

TEST(NewSequences, ChoicesDifferInSeedAndStreamAndOnlyTheFirstJudgesThePrompt) {
  v1::GenerateRequest r = Good();
  r.set_num_choices(3);
  r.set_prompt_logprobs(0);
  r.mutable_sampling()->set_seed(std::numeric_limits<uint64_t>::max());
  ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> s, Make(r));
  ASSERT_EQ(s.size(), 3u);
  EXPECT_EQ(s[0].sampling.seed, std::numeric_limits<uint64_t>::max()) << "choice 0 is the seed itself";
  EXPECT_EQ(s[1].sampling.seed, 0u);
  EXPECT_EQ(s[2].sampling.seed, 1u);
  EXPECT_NE(s[0].stream, s[1].stream);
  EXPECT_EQ(s[0].num_prompt_logprobs, 0);
  EXPECT_EQ(s[1].num_prompt_logprobs, -1);
}

TEST(NewSequences, HugeCountsAreBoundedByTheContext) {
  v1::GenerateRequest r = Good();
  r.set_max_tokens(std::numeric_limits<uint32_t>::max());
  r.set_min_tokens(std::numeric_limits<uint32_t>::max());
  r.mutable_sampling()->set_penalty_last_n(std::numeric_limits<uint32_t>::max());
  ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> s, Make(r));
  EXPECT_EQ(s[0].max_tokens, 32);
  EXPECT_EQ(s[0].min_tokens, 32);
  EXPECT_EQ(s[0].sampling.penalty_last_n, std::numeric_limits<int32_t>::max());
}

TEST(NewSequences, BadFieldsAreRefusedByName) {
  struct Case {
    const char* part;
    std::function<void(v1::GenerateRequest*)> spoil;
  };
  const std::vector<Case> cases = {
      {"token_ids", [](auto* r) { r->clear_prompt_ids(); }},
      {"token_ids", [](auto* r) { r->set_prompt_ids(1, 100); }},
      {"token_ids", [](auto* r) { r->set_prompt_ids(1, 0xffffffffu); }},
      {"num_choices", [](auto* r) { r->set_num_choices(0); }},
      {"num_choices", [](auto* r) { r->set_num_choices(17); }},
      {"max_tokens", [](auto* r) { r->set_max_tokens(0); }},
      {"min_tokens", [](auto* r) { r->set_min_tokens(5); }},
      {"sampling.temperature", [](auto* r) { r->mutable_sampling()->set_temperature(std::nanf("")); }},
      {"sampling.top_p", [](auto* r) { r->mutable_sampling()->set_top_p(0); }},
      {"sampling.top_k", [](auto* r) { r->mutable_sampling()->set_top_k(101); }},
      {"sampling.logit_bias", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[100] = 1; }},
      {"sampling.banned_token_ids", [](auto* r) { r->mutable_sampling()->add_banned_token_ids(100); }},
      {"stopping.stop_token_ids", [](auto* r) { r->add_stop_token_ids(100); }},
      {"output.logprobs", [](auto* r) { r->set_logprobs(21); }},
      {"output.prompt_logprobs", [](auto* r) { r->set_prompt_logprobs(21); }},
      {"request_id", [](auto* r) { r->set_request_id(std::string(129, 'x')); }},
      {"cache_namespace",
       [](auto* r) { r->set_cache_namespace(std::string(limits::kMaxCacheNamespaceBytes + 1, 'x')); }},
      {"tenant", [](auto* r) { r->set_tenant(std::string(limits::kMaxTenantBytes + 1, 'x')); }},
      {"priority", [](auto* r) { r->set_priority(3); }},
      {"speculation.max_draft_tokens", [](auto* r) { r->set_max_draft_tokens(limits::kMaxDraftTokens + 1); }},
      {"priority", [](auto* r) { r->set_priority(-3); }},
      {"priority", [](auto* r) { r->set_priority(std::numeric_limits<int32_t>::min()); }},
      {"cache.mode", [](auto* r) { r->set_cache_mode(static_cast<dunlin::v1::Cache::Mode>(99)); }},
      {"max_time", [](auto* r) { r->mutable_max_time()->set_seconds(-1); }},
      {"max_time", [](auto* r) { r->mutable_max_time()->set_nanos(1'000'000'000); }},
      {"max_time", [](auto* r) { r->mutable_max_time()->set_seconds(std::numeric_limits<int64_t>::max()); }},
  };
  for (const Case& c : cases) {
    v1::GenerateRequest r = Good();
    c.spoil(&r);
    EXPECT_THAT(Make(r), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.part))) << c.part;
  }
}

TEST(NewSequences, APromptTheContextCannotHoldIsOutOfRangeNamingBoth) {
  v1::GenerateRequest r = Good();
  while (r.prompt_ids_size() < 31) r.add_prompt_ids(1);
  EXPECT_OK(Make(r));
  r.add_prompt_ids(1);
  EXPECT_THAT(Make(r), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("32 tokens, at most 31 fit")));
}

TEST(NewSequences, AChoiceThatGeneratesNothingJudgesThePrompt) {
  v1::GenerateRequest r = Good();
  r.set_max_tokens(0);
  r.set_prompt_logprobs(2);
  r.set_num_choices(2);
  ASSERT_OK_AND_ASSIGN(const std::vector<NewSequence> s, Make(r));
  EXPECT_EQ(s[1].num_prompt_logprobs, 2);
}

}  // namespace
}  // namespace dunlin::worker
