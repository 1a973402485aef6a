#include "proto/config_flags.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/support/status_matchers.h"

namespace dunlin {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Args = std::vector<std::string>;

absl::StatusOr<std::string> NoFile(const std::string& path) { return absl::NotFoundError("no file " + path); }
ConfigReader FileWith(std::string text) {
  return [text](const std::string&) -> absl::StatusOr<std::string> { return text; };
}
absl::StatusOr<ParsedConfig> Parse(const Args& args, absl::string_view used_by = kWorkerFlags,
                                   const ConfigReader& reader = NoFile) {
  return ParseArgs(args, used_by, reader);
}
auto BadUsage(const std::string& part) { return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)); }

TEST(ConfigFlags, DefaultsComeFromTheTableAndOnlyTheGivenIsGiven) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, Parse({}));
  EXPECT_EQ(parsed.config.max_num_seqs(), 64u);
  EXPECT_EQ(parsed.config.host(), "127.0.0.1");
  EXPECT_EQ(parsed.config.kv_cache_dtype(), "auto");
  EXPECT_EQ(parsed.config.gpu_memory_utilization(), 0.9);
  EXPECT_FALSE(parsed.config.has_model());
  EXPECT_EQ(parsed.given.ByteSizeLong(), 0u);
}

TEST(ConfigFlags, ValuesFollowTheFlagOrAnEqualsSign) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, Parse({"--model", "a.gguf", "--max-num-seqs=8", "--max_model_len",
                                                         "4K", "--listen", "unix:/a=b", "--served-model-name="}));
  EXPECT_EQ(parsed.config.model(), "a.gguf");
  EXPECT_EQ(parsed.config.max_num_seqs(), 8u);
  EXPECT_EQ(parsed.config.max_model_len(), "4K");
  EXPECT_EQ(parsed.config.listen(), "unix:/a=b");
  EXPECT_TRUE(parsed.given.has_served_model_name());
}

TEST(ConfigFlags, OfASingularFlagTheLastCounts) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, Parse({"--threads", "1", "--threads=2"}));
  EXPECT_EQ(parsed.config.threads(), 2u);
}

TEST(ConfigFlags, BoolsTakeThreeFormsAndNeverTheNextArgument) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig on, Parse({"--reflection", "--seed", "1"}, kGatewayFlags));
  EXPECT_TRUE(on.config.reflection());
  ASSERT_OK_AND_ASSIGN(const ParsedConfig off, Parse({"--no-reflection"}, kGatewayFlags));
  EXPECT_TRUE(off.given.has_reflection());
  EXPECT_FALSE(off.config.reflection());
  ASSERT_OK_AND_ASSIGN(const ParsedConfig value, Parse({"--reflection=false"}, kGatewayFlags));
  EXPECT_FALSE(value.config.reflection());
  EXPECT_THAT(Parse({"--reflection=maybe"}, kGatewayFlags), BadUsage("--reflection: \"maybe\" is not true or false"));
  EXPECT_THAT(Parse({"--no-reflection=true"}, kGatewayFlags), BadUsage("takes no value"));
  EXPECT_THAT(Parse({"--reflection", "true"}, kGatewayFlags), BadUsage("unexpected argument \"true\""));
}

TEST(ConfigFlags, RepeatedFlagsCollectAndReplaceTheFilesList) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed,
                       Parse({"--worker-address", "a:1", "--config", "f", "--worker-address=b:2"}, kGatewayFlags,
                             FileWith("worker_address: 'old:9'")));
  EXPECT_THAT(parsed.config.worker_address(), ElementsAre("a:1", "b:2"));
}

TEST(ConfigFlags, AnUnknownFlagGetsASuggestion) {
  EXPECT_THAT(Parse({"--max-num-seq", "1"}), BadUsage("unknown flag --max-num-seq; did you mean --max-num-seqs?"));
  EXPECT_THAT(Parse({"--modle=x"}), BadUsage("did you mean --model?"));
  EXPECT_THAT(Parse({"--hepl"}), BadUsage("did you mean --help?"));
  const absl::Status far = Parse({"--quux-zzzzz"}).status();
  EXPECT_THAT(far, BadUsage("unknown flag --quux-zzzzz"));
  EXPECT_THAT(std::string(far.message()), Not(HasSubstr("did you mean")));
}

TEST(ConfigFlags, AFlagOfAnotherExecutableIsRefusedByName) {
  EXPECT_THAT(Parse({"--workers", "2"}), BadUsage("--workers is a flag of serve, not of worker"));
  EXPECT_OK(Parse({"--workers", "2"}, kServeFlags));
  EXPECT_OK(Parse({"--addresses-file", "x"}, kWorkerFlags));
}

TEST(ConfigFlags, RangesAndChoicesAreChecked) {
  EXPECT_THAT(Parse({"--worker-metrics-port", "65536"}), BadUsage("65536 is not allowed: between 0 and 65535"));
  EXPECT_THAT(Parse({"--max-num-seqs", "0"}), BadUsage("--max-num-seqs: 0 is not allowed: between 1 and 4096"));
  EXPECT_THAT(Parse({"--max-num-seqs", "99999999999"}), BadUsage("between 1 and 4096"));
  EXPECT_THAT(Parse({"--max-num-seqs", "-1"}), BadUsage("\"-1\" is not a whole number"));
  EXPECT_THAT(Parse({"--max-num-seqs", " 1"}), BadUsage("is not a whole number"));
  EXPECT_THAT(Parse({"--gpu-memory-utilization", "nan"}), BadUsage("nan is not allowed"));
  EXPECT_THAT(Parse({"--gpu-memory-utilization", "1.01"}), BadUsage("is not allowed"));
  EXPECT_THAT(Parse({"--gpu-memory-utilization", "x"}), BadUsage("is not a number"));
  EXPECT_THAT(Parse({"--device", "tpu"}), BadUsage("\"tpu\" is not one of auto, cpu, cuda"));
  EXPECT_THAT(Parse({"--block-size", "17"}), BadUsage("\"17\" is not one of 8, 16, 32, 64"));
  EXPECT_THAT(Parse({"--max-model-len", "1"}), BadUsage("--max-model-len: 1 is not allowed: between 2 and"));
  EXPECT_THAT(Parse({"--max-model-len", "4x"}), BadUsage("unknown suffix"));
  EXPECT_THAT(Parse({"--kv-cache-memory-bytes", "0"}), BadUsage("at least 1"));
  EXPECT_OK(Parse({"--kv-cache-memory-bytes", "512m"}));
}

TEST(ConfigFlags, AMissingValueIsNotTheNextFlag) {
  EXPECT_THAT(Parse({"--model", "--threads"}), BadUsage("--model: needs a value"));
  EXPECT_THAT(Parse({"--model"}), BadUsage("--model: needs a value"));
  EXPECT_THAT(Parse({"stray"}), BadUsage("unexpected argument \"stray\""));
  EXPECT_THAT(Parse({"--"}), BadUsage("unexpected argument"));
}

TEST(ConfigFlags, FlagsWinOverTheFileAndTheFileOverDefaults) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed,
                       Parse({"--config=f", "--threads=3"}, kWorkerFlags,
                             FileWith("# one file for every executable\nthreads: 1\nmax_num_seqs: 5\nworkers: 2\n")));
  EXPECT_EQ(parsed.config.threads(), 3u);
  EXPECT_EQ(parsed.config.max_num_seqs(), 5u);
  EXPECT_EQ(parsed.config.block_size(), 16u);
}

TEST(ConfigFlags, AFilesMistakesAreNamedWithTheirLine) {
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith("threads: 1\nthreds: 2\n")), BadUsage("f:2:"));
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith("threads: 1\nthreads: 2\n")), BadUsage("f:2:"));
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith("grpc_port: 70000")),
              BadUsage("f: grpc_port: 70000 is not allowed"));
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith("device: 'x'")), BadUsage("f: device: \"x\" is not one of"));
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith("config: 'g'")), BadUsage("cannot name another"));
  EXPECT_THAT(Parse({"--config=f"}, kWorkerFlags, FileWith(std::string((1 << 20) + 1, ' '))), BadUsage("at most"));
  EXPECT_THAT(Parse({"--config", "gone"}), BadUsage("--config: no file gone"));
}

TEST(ConfigFlags, HelpListsEveryFlagOfItsExecutableAndFitsTheWidth) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, Parse({"--help", "--nonsense"}));
  EXPECT_TRUE(parsed.help);
  const std::string help = HelpText("dunlin-worker", "Runs a model.", kWorkerFlags, 80);
  EXPECT_THAT(help, AllOf(HasSubstr("usage: dunlin-worker"), HasSubstr("--max-num-seqs N"), HasSubstr("[default: 64]"),
                          HasSubstr("--device {auto,cpu,cuda}"), HasSubstr("--help"), Not(HasSubstr("--workers"))));
  EXPECT_THAT(HelpText("g", "s", kGatewayFlags), HasSubstr("--[no-]reflection"));
  for (const absl::string_view line : absl::StrSplit(help, '\n')) {
    // A list of allowed values is one word.
    if (line.find('{') != absl::string_view::npos) continue;
    EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST(ConfigFlags, EveryFieldHasHelpAndAnAllowedDefault) {
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const v1::FlagOptions& options = table->field(i)->options().GetExtension(v1::flag);
    EXPECT_FALSE(options.help().empty()) << table->field(i)->name();
    for (const std::string& word : options.used_by()) {
      EXPECT_TRUE(word == kGatewayFlags || word == kWorkerFlags || word == kServeFlags) << word;
    }
  }
  v1::ServerConfig config;
  for (const char* used_by : {kGatewayFlags, kWorkerFlags, kServeFlags})
    ApplyDefaults(used_by, &config);  // CHECK-fails on a default that its own rules refuse
  EXPECT_EQ(config.worker_id(), "worker0");
  v1::ServerConfig gateway;
  ApplyDefaults(kGatewayFlags, &gateway);
  EXPECT_FALSE(gateway.has_worker_id());
}

TEST(ConfigFlags, ThePrintedConfigurationReadsBackTheSame) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed,
                       Parse({"--model", "quo\"te\n\\.gguf", "--gpu-memory-utilization", "0.1234567890123", "--seed",
                              "18446744073709551615", "--no-reflection"},
                             kServeFlags));
  v1::ServerConfig again;
  ASSERT_OK(MergeConfigText(ConfigText(parsed.config), "printed", &again));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(parsed.config, again)) << ConfigText(parsed.config);
}

TEST(ConfigFlags, FlagsForAChildGiveItTheSameSettings) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig serve,
                       Parse({"--model=m.gguf", "--max-model-len=2k", "--workers=2", "--seed=7"}, kServeFlags));
  const Args flags = FlagsFromConfig(serve.config, kWorkerFlags);
  EXPECT_THAT(flags, AllOf(::testing::Contains("--model=m.gguf"), ::testing::Contains("--max-model-len=2k"),
                           Not(::testing::Contains("--workers=2")), Not(::testing::Contains("--seed=7"))));
  ASSERT_OK_AND_ASSIGN(const ParsedConfig child, Parse(flags));
  EXPECT_EQ(FlagsFromConfig(child.config, kWorkerFlags).size(), flags.size() + 2) << "listen and worker_id are its own";
  EXPECT_EQ(child.config.max_model_len(), "2k");
  Args overridden = flags;
  overridden.push_back("--threads=5");
  ASSERT_OK_AND_ASSIGN(const ParsedConfig last, Parse(overridden));
  EXPECT_EQ(last.config.threads(), 5u);
}

TEST(ConfigFlags, ASecretIsNeverPrinted) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed,
                       Parse({"--api-key", "hunter2", "--api-key=hunter3", "--model", "m"}, kServeFlags));
  EXPECT_THAT(parsed.config.api_key(), ElementsAre("hunter2", "hunter3"));
  const std::string text = ConfigText(parsed.config);
  EXPECT_THAT(text, AllOf(HasSubstr("# api_key is set"), HasSubstr("model: \"m\""), Not(HasSubstr("hunter"))));
  for (const std::string& flag : FlagsFromConfig(parsed.config, kGatewayFlags))
    EXPECT_THAT(flag, Not(HasSubstr("key")));
  EXPECT_THAT(std::string(Parse({"--api-key", std::string("hunter2\0", 8)}, kGatewayFlags).status().message()),
              AllOf(HasSubstr("NUL"), Not(HasSubstr("hunter"))));
}

TEST(ConfigFlags, TheCacheAndSchedulerFlagsHaveTheirRanges) {
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, Parse({}));
  EXPECT_EQ(parsed.config.num_scheduler_steps(), 1u);
  EXPECT_EQ(parsed.config.swap_space_bytes(), "0");
  EXPECT_TRUE(parsed.config.enable_prefix_caching());
  EXPECT_EQ(parsed.config.inter_token_target_ms(), 0u);
  ASSERT_OK_AND_ASSIGN(const ParsedConfig off, Parse({"--no-enable-prefix-caching", "--swap-space-bytes=2G"}));
  EXPECT_FALSE(off.config.enable_prefix_caching());
  EXPECT_EQ(off.config.swap_space_bytes(), "2G");
  EXPECT_THAT(Parse({"--num-scheduler-steps", "0"}), BadUsage("0 is not allowed: between 1 and 64"));
  EXPECT_THAT(Parse({"--num-scheduler-steps", "65"}), BadUsage("65 is not allowed: between 1 and 64"));
  EXPECT_THAT(Parse({"--swap-space-bytes", "17T"}), BadUsage("17T is not allowed"));
  EXPECT_THAT(Parse({"--api-key", "x"}), BadUsage("--api-key is a flag of gateway, serve, not of worker"));
}

TEST(ConfigFlags, SizesFollowTheirSuffix) {
  const std::vector<std::pair<std::string, uint64_t>> good = {{"0", 0},
                                                              {"4096", 4096},
                                                              {"4k", 4000},
                                                              {"4K", 4096},
                                                              {"512m", 512000000},
                                                              {"512M", 536870912},
                                                              {"1.5k", 1500},
                                                              {"2g", 2000000000},
                                                              {"2G", 2147483648},
                                                              {"1T", 1099511627776},
                                                              {"18446744073709551615", 18446744073709551615u}};
  for (const auto& [text, value] : good) {
    ASSERT_OK_AND_ASSIGN(const uint64_t parsed, ParseSize(text));
    EXPECT_EQ(parsed, value) << text;
  }
  for (const char* text : {"", "k", "-1", "+1", "1.5K", "1.5", "4kb", "4 k", "1e3", "0x10", "18446744073709551616",
                           "99999999999T", "1..5k", ".5k", "99999999999999999999.5g"}) {
    EXPECT_FALSE(ParseSize(text).ok()) << text;
  }
}

TEST(ConfigFlags, MainAnswersUsageErrorsWithTwoAndHelpWithZero) {
  ParsedConfig parsed;
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(MainConfig(Args{"--bogus"}, "dunlin-worker", "s", kWorkerFlags, &parsed), 2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("dunlin-worker: unknown flag --bogus"), HasSubstr("Try 'dunlin-worker --help'")));
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(MainConfig(Args{"--help"}, "dunlin-worker", "s", kWorkerFlags, &parsed), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("--model TEXT"));
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(MainConfig(Args{"--print-config", "--threads=2"}, "dunlin-worker", "s", kWorkerFlags, &parsed), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("threads: 2\n"));
  EXPECT_EQ(MainConfig(Args{"--threads=2"}, "dunlin-worker", "s", kWorkerFlags, &parsed), std::nullopt);
  EXPECT_EQ(parsed.config.threads(), 2u);
}

TEST(ConfigFlags, AFileOnDiskIsRead) {
  const std::string path = ::testing::TempDir() + "/config_flags_test.textproto";
  std::ofstream(path) << "threads: 4\n";
  ASSERT_OK_AND_ASSIGN(const ParsedConfig parsed, ParseArgs(Args{"--config", path}, kWorkerFlags));
  EXPECT_EQ(parsed.config.threads(), 4u);
  std::remove(path.c_str());
  EXPECT_THAT(ParseArgs(Args{"--config", path}, kWorkerFlags), BadUsage("cannot read"));
}

}  // namespace
}  // namespace dunlin
