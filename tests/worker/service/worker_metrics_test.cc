// What /metrics says: every name of the contract, clean by the rules of `promtool check metrics`, and the arithmetic.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"
#include "worker/bandwidth_meter.h"
#include "worker/metrics.h"

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;

WorkerMetrics::Options TestOptions() {
  WorkerMetrics::Options o;
  o.version = "1.2.3";
  o.commit = "abc";
  o.model = "tiny";
  o.quantization = "Q4_1";
  o.kv_cache_dtype = "fp8_e4m3";
  o.memory_utilization = 0.5;
  o.runner.host_slots = 2;
  o.runner.device = "cpu";
  o.runner.isa = "avx2";
  o.runner.page_tokens = 16;
  o.runner.num_pages = 10;
  o.runner.page_bytes = 4096;
  o.runner.peak_bandwidth_bytes_per_second = 1e9;
  return o;
}

std::unique_ptr<WorkerMetrics> MakeMetrics(const Clock* clock) {
  absl::StatusOr<std::unique_ptr<WorkerMetrics>> metrics = WorkerMetrics::Create(TestOptions(), clock);
  EXPECT_OK(metrics);
  return *std::move(metrics);
}

// name{labels} -> value, of every sample.
std::map<std::string, double> Samples(const std::string& text) {
  std::map<std::string, double> out;
  for (const absl::string_view view : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::string line(view);
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    double value = -1;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    EXPECT_TRUE(out.emplace(line.substr(0, space), value).second) << "twice: " << line;
  }
  return out;
}

TEST(WorkerMetrics, EverySeriesOfTheContractIsThereFromTheStart) {
  FakeClock clock;
  const std::map<std::string, double> samples = Samples(MakeMetrics(&clock)->Text());
  const std::vector<std::string> zero = {
      "dunlin_num_requests_running",
      "dunlin_num_requests_waiting",
      "dunlin_num_requests_preempted",
      "dunlin_scheduler_plans_total",
      "dunlin_preemptions_total",
      "dunlin_spec_decode_drafts_total",
      "dunlin_spec_decode_draft_tokens_total",
      "dunlin_spec_decode_accepted_tokens_total",
      "dunlin_recompute_tokens_total",
      "dunlin_vtc_spread_tokens",
      "dunlin_step_time_predicted_seconds",
      "dunlin_step_seconds_count{phase=\"prefill\"}",
      "dunlin_step_seconds_count{phase=\"decode\"}",
      "dunlin_step_tokens_count",
      "dunlin_queue_time_seconds_count",
      "dunlin_cancel_to_free_seconds_count",
      "dunlin_kv_pages{state=\"held\"}",
      "dunlin_kv_pages{state=\"cached\"}",
      "dunlin_kv_pages{state=\"quarantine\"}",
      "dunlin_kv_cache_usage_ratio",
      "dunlin_kv_cache_bytes{state=\"held\"}",
      "dunlin_kv_cache_bytes{state=\"cached\"}",
      "dunlin_kv_cache_bytes{state=\"quarantine\"}",
      "dunlin_kv_evictions_total",
      "dunlin_kv_saturated_values_total",
      "dunlin_prefix_cache_queries_total",
      "dunlin_prefix_cache_hits_total",
      "dunlin_kv_reserved_pages",
      "dunlin_kv_pinned_pages",
      "dunlin_kv_dedup_pages_total",
      "dunlin_kv_cow_copies_total",
      "dunlin_invariant_failures_total",
      "dunlin_kv_host_tier_pages",
      "dunlin_kv_host_tier_capacity_pages",
      "dunlin_kv_host_tier_failures_total",
      "dunlin_kv_host_tier_bytes_total{direction=\"out\"}",
      "dunlin_kv_host_tier_bytes_total{direction=\"in\"}",
      "dunlin_kv_host_tier_hits_total",
      "dunlin_device_graph_steps_total{outcome=\"eager\"}",
      "dunlin_device_graph_steps_total{outcome=\"recorded\"}",
      "dunlin_device_graph_steps_total{outcome=\"replayed\"}",
      "dunlin_memory_bytes_total{kind=\"weights\",phase=\"prefill\"}",
      "dunlin_memory_bytes_total{kind=\"kv_read\",phase=\"prefill\"}",
      "dunlin_memory_bytes_total{kind=\"kv_write\",phase=\"prefill\"}",
      "dunlin_memory_bytes_total{kind=\"activations\",phase=\"prefill\"}",
      "dunlin_memory_bytes_total{kind=\"weights\",phase=\"decode\"}",
      "dunlin_memory_bytes_total{kind=\"kv_read\",phase=\"decode\"}",
      "dunlin_memory_bytes_total{kind=\"kv_write\",phase=\"decode\"}",
      "dunlin_memory_bytes_total{kind=\"activations\",phase=\"decode\"}",
      "dunlin_memory_bandwidth_bytes_per_second{phase=\"prefill\"}",
      "dunlin_memory_bandwidth_bytes_per_second{phase=\"decode\"}",
      "dunlin_memory_bandwidth_utilization_ratio{phase=\"prefill\"}",
      "dunlin_memory_bandwidth_utilization_ratio{phase=\"decode\"}",
      "vllm:num_requests_running{model_name=\"tiny\"}",
      "vllm:num_requests_waiting{model_name=\"tiny\"}",
      "vllm:kv_cache_usage_perc{model_name=\"tiny\"}",
      "vllm:prefix_cache_queries_total{model_name=\"tiny\"}",
      "vllm:prefix_cache_hits_total{model_name=\"tiny\"}",
      "vllm:generation_tokens_total{model_name=\"tiny\"}",
      "vllm:prompt_tokens_total{model_name=\"tiny\"}",
      "vllm:spec_decode_num_drafts_total{model_name=\"tiny\"}",
      "vllm:spec_decode_num_draft_tokens_total{model_name=\"tiny\"}",
      "vllm:spec_decode_num_accepted_tokens_total{model_name=\"tiny\"}",
      "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"}",
      "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"}",
  };
  for (const std::string& name : zero) {
    ASSERT_TRUE(samples.contains(name)) << name;
    EXPECT_EQ(samples.at(name), 0.0) << name;
  }
  const std::map<std::string, double> set = {
      {"dunlin_kv_pages{state=\"blank\"}", 10},
      {"dunlin_kv_cache_bytes{state=\"blank\"}", 40960},
      {"dunlin_kv_page_size_tokens", 16},
      {"dunlin_memory_bandwidth_peak_bytes_per_second", 1e9},
      {"dunlin_build_info{version=\"1.2.3\",commit=\"abc\",device=\"cpu\",isa=\"avx2\"}", 1},
      {"dunlin_model_info{model=\"tiny\",quantization=\"Q4_1\",kv_cache_dtype=\"fp8_e4m3\"}", 1},
      {"dunlin_kv_cache_info{page_size_tokens=\"16\",pages=\"10\",kv_cache_dtype=\"fp8_e4m3\",prefix_caching=\"true\","
       "host_tier_pages=\"2\",memory_utilization=\"0.5\"}",
       1},
      {"vllm:cache_config_info{model_name=\"tiny\",block_size=\"16\",cache_dtype=\"fp8_e4m3\",enable_prefix_caching="
       "\"True\",gpu_memory_utilization=\"0.5\",num_cpu_blocks=\"2\",num_gpu_blocks=\"10\"}",
       1},
  };
  for (const auto& [name, value] : set) {
    ASSERT_TRUE(samples.contains(name)) << name;
    EXPECT_EQ(samples.at(name), value) << name;
  }
}

// The rules of `promtool check metrics` that our names could break; the vllm: aliases are theirs, not ours.
TEST(WorkerMetrics, TheTextIsCleanByPromtoolsRules) {
  FakeClock clock;
  const std::string text = MakeMetrics(&clock)->Text();
  std::set<std::string> helped;
  std::map<std::string, std::string> types;
  for (const absl::string_view view : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::string line(view);
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words[1] == "HELP") {
      ASSERT_EQ(words.size(), 4u) << "help text: " << line;
      EXPECT_FALSE(words[3].empty());
      EXPECT_TRUE(helped.insert(words[2]).second) << line;
    }
    if (words[1] == "TYPE") {
      EXPECT_TRUE(types.emplace(words[2], words[3]).second) << line;
    }
  }
  ASSERT_GT(types.size(), 30u);
  for (const auto& [name, type] : types) {
    EXPECT_TRUE(helped.contains(name)) << name;
    if (absl::StartsWith(name, "vllm:")) continue;
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_"), std::string::npos) << name;
    EXPECT_TRUE(absl::StartsWith(name, "dunlin_")) << name;
    EXPECT_EQ(absl::EndsWith(name, "_total"), type == "counter") << name << " is a " << type;
    for (const char* bad : {"_count", "_sum", "_bucket", "_gauge", "_counter", "_histogram"}) {
      EXPECT_FALSE(absl::EndsWith(name, bad)) << name;
    }
    for (const char* bad : {"_ms", "_millis", "_kb", "_mb", "_gb", "_minutes", "_percent", "_micros", "_us", "_ns"}) {
      EXPECT_FALSE(absl::StrContains(absl::StrCat(name, "_"), absl::StrCat(bad, "_"))) << name;
    }
  }
}

TEST(WorkerMetrics, GaugesAreTheSnapshotOfTheScrape) {
  FakeClock clock;
  const std::unique_ptr<WorkerMetrics> metrics = MakeMetrics(&clock);
  EngineStats stats;
  stats.running = 3;
  stats.waiting = 2;
  stats.total_pages = 10;
  stats.held_pages = 4;
  stats.quarantine_pages = 1;
  stats.cached_pages = 2;
  stats.blank_pages = 3;
  stats.preemptions = 7;
  stats.drafts = 21;
  stats.draft_tokens = 40;
  stats.accepted_draft_tokens = 30;
  stats.generated_tokens = 1ull << 40;
  stats.prefix_query_tokens = 100;
  stats.prefix_hit_tokens = 64;
  metrics->SetSnapshot([&stats] { return stats; });
  std::map<std::string, double> s = Samples(metrics->Text());
  EXPECT_EQ(s["dunlin_num_requests_running"], 3);
  EXPECT_EQ(s["vllm:num_requests_waiting{model_name=\"tiny\"}"], 2);
  EXPECT_EQ(s["dunlin_kv_cache_usage_ratio"], 0.5) << "cached pages are free for the taking";
  EXPECT_EQ(s["dunlin_kv_cache_bytes{state=\"held\"}"], 4 * 4096);
  EXPECT_EQ(s["dunlin_preemptions_total"], 7);
  EXPECT_EQ(s["dunlin_spec_decode_drafts_total"], 21);
  EXPECT_EQ(s["dunlin_spec_decode_draft_tokens_total"], 40);
  EXPECT_EQ(s["dunlin_spec_decode_accepted_tokens_total"], 30);
  EXPECT_EQ(s["vllm:spec_decode_num_accepted_tokens_total{model_name=\"tiny\"}"], 30);
  EXPECT_EQ(s["vllm:generation_tokens_total{model_name=\"tiny\"}"], static_cast<double>(1ull << 40));
  EXPECT_EQ(s["dunlin_prefix_cache_hits_total"], 64);
  stats.running = 0;
  EXPECT_EQ(Samples(metrics->Text())["dunlin_num_requests_running"], 0);
  metrics->SetSnapshot(nullptr);
  EXPECT_EQ(Samples(metrics->Text())["dunlin_kv_pages{state=\"blank\"}"], 10);
}

TEST(WorkerMetrics, EveryFigureOfTheCacheHasItsOwnSeries) {
  FakeClock clock;
  const std::unique_ptr<WorkerMetrics> metrics = MakeMetrics(&clock);
  EngineStats stats;
  stats.waiting_preempted = 15;
  stats.plans = 16;
  stats.recomputed_tokens = 1;
  stats.reserved_pages = 2;
  stats.pinned_pages = 3;
  stats.evictions = 4;
  stats.dedup_pages = 5;
  stats.copied_pages = 6;
  stats.host_tier_pages = 7;
  stats.host_tier_slots = 8;
  stats.host_tier_bytes_out = 9;
  stats.host_tier_bytes_in = 10;
  stats.host_tier_hit_tokens = 11;
  stats.host_tier_failures = 12;
  stats.vtc_spread_tokens = 13.5;
  stats.predicted_step_seconds = 0.25;
  stats.invariant_failures = 14;
  metrics->SetSnapshot([&stats] { return stats; });
  const std::map<std::string, double> s = Samples(metrics->Text());
  const std::map<std::string, double> expected = {
      {"dunlin_num_requests_preempted", 15},
      {"dunlin_scheduler_plans_total", 16},
      {"dunlin_recompute_tokens_total", 1},
      {"dunlin_kv_reserved_pages", 2},
      {"dunlin_kv_pinned_pages", 3},
      {"dunlin_kv_evictions_total", 4},
      {"dunlin_kv_dedup_pages_total", 5},
      {"dunlin_kv_cow_copies_total", 6},
      {"dunlin_kv_host_tier_pages", 7},
      {"dunlin_kv_host_tier_capacity_pages", 8},
      {"dunlin_kv_host_tier_bytes_total{direction=\"out\"}", 9},
      {"dunlin_kv_host_tier_bytes_total{direction=\"in\"}", 10},
      {"dunlin_kv_host_tier_hits_total", 11},
      {"dunlin_kv_host_tier_failures_total", 12},
      {"dunlin_vtc_spread_tokens", 13.5},
      {"dunlin_step_time_predicted_seconds", 0.25},
      {"dunlin_invariant_failures_total", 14},
  };
  for (const auto& [name, value] : expected) EXPECT_EQ(s.at(name), value) << name;
}

TEST(WorkerMetrics, ObservationsReachTheirHistograms) {
  FakeClock clock;
  const std::unique_ptr<WorkerMetrics> metrics = MakeMetrics(&clock);
  metrics->OnScheduled(absl::Milliseconds(3));
  metrics->OnFirstToken(absl::Milliseconds(30));
  metrics->OnInterTokenLatency(absl::Milliseconds(12));
  metrics->OnCancelToFree(absl::Milliseconds(7));
  StepResult result;
  metrics->OnStep(4, 0, result, absl::Milliseconds(2));
  result.graph = GraphUse::kReplayed;
  metrics->OnStep(0, 2, result, absl::Milliseconds(4));
  result.graph = GraphUse::kEager;
  metrics->OnStep(1, 2, result, absl::Milliseconds(8));
  std::map<std::string, double> s = Samples(metrics->Text());
  EXPECT_EQ(s["dunlin_queue_time_seconds_sum"], 0.003);
  EXPECT_EQ(s["vllm:time_to_first_token_seconds_sum{model_name=\"tiny\"}"], 0.03);
  EXPECT_EQ(s["vllm:inter_token_latency_seconds_bucket{model_name=\"tiny\",le=\"0.025\"}"], 1);
  EXPECT_EQ(s["dunlin_cancel_to_free_seconds_sum"], 0.007);
  EXPECT_EQ(s["dunlin_step_seconds_sum{phase=\"prefill\"}"], 0.002);
  EXPECT_EQ(s["dunlin_step_seconds_sum{phase=\"decode\"}"], 0.004);
  EXPECT_EQ(s["dunlin_step_seconds_sum{phase=\"mixed\"}"], 0.008);
  EXPECT_EQ(s["dunlin_step_tokens_sum"], 9);
  EXPECT_EQ(s["dunlin_device_graph_steps_total{outcome=\"replayed\"}"], 1);
  EXPECT_EQ(s["dunlin_device_graph_steps_total{outcome=\"eager\"}"], 1);
  EXPECT_EQ(s["dunlin_device_graph_steps_total{outcome=\"recorded\"}"], 0);
}

TEST(WorkerMetrics, AMixedStepIsSharedByItsTokensAndLosesNoByte) {
  FakeClock clock;
  const std::unique_ptr<WorkerMetrics> metrics = MakeMetrics(&clock);
  StepResult result;
  result.traffic = {1001, 200, 100, 50};
  result.device_time = absl::Microseconds(4);
  metrics->OnStep(1, 3, result, absl::Microseconds(5));
  std::map<std::string, double> s = Samples(metrics->Text());
  EXPECT_EQ(s["dunlin_memory_bytes_total{kind=\"weights\",phase=\"prefill\"}"], 250);
  EXPECT_EQ(s["dunlin_memory_bytes_total{kind=\"weights\",phase=\"decode\"}"], 751);
  EXPECT_EQ(s["dunlin_memory_bytes_total{kind=\"kv_read\",phase=\"prefill\"}"], 50);
  EXPECT_EQ(s["dunlin_memory_bytes_total{kind=\"activations\",phase=\"decode\"}"], 38);
  // 1351 bytes in 4 us, of a peak of 1 GB/s.
  EXPECT_NEAR(s["dunlin_memory_bandwidth_bytes_per_second{phase=\"decode\"}"], (751 + 150 + 75 + 38) / 3e-6, 1);
  EXPECT_NEAR(s["dunlin_memory_bandwidth_utilization_ratio{phase=\"decode\"}"], 1014 / 3e-6 / 1e9, 1e-6);
  EXPECT_NEAR(metrics->bandwidth_bytes_per_second(), 1351 / 4e-6, 1);
}

TEST(BandwidthMeter, OldStepsLeaveAfterOneToTwoWindows) {
  BandwidthMeter meter(absl::Seconds(5));
  const absl::Time t0 = absl::UnixEpoch();
  const kernels::Traffic slow = {100, 0, 0, 0};
  const kernels::Traffic fast = {300, 0, 0, 0};
  meter.Add(0, 1, slow, absl::Seconds(1), t0);
  EXPECT_EQ(meter.BytesPerSecond(Phase::kDecode, t0), 100.0);
  EXPECT_EQ(meter.BytesPerSecond(Phase::kPrefill, t0), 0.0);
  meter.Add(0, 1, fast, absl::Seconds(1), t0 + absl::Seconds(6));
  EXPECT_EQ(meter.BytesPerSecond(Phase::kDecode, t0 + absl::Seconds(6)), 200.0);
  EXPECT_EQ(meter.BytesPerSecond(Phase::kDecode, t0 + absl::Seconds(11)), 300.0) << "the first window left";
  EXPECT_EQ(meter.BytesPerSecond(Phase::kDecode, t0 + absl::Seconds(16)), 0.0) << "idle";
  EXPECT_EQ(meter.BytesPerSecond(t0 + absl::Seconds(6)), 200.0);
  EXPECT_EQ(meter.total(Phase::kDecode).weight_bytes, 400u);
}

TEST(BandwidthMeter, SharesAddUpForHugeCounts) {
  BandwidthMeter meter;
  const uint64_t huge = ~0ull / 2;
  meter.Add(3, 4, {huge, huge, 1, 2}, absl::Seconds(1), absl::UnixEpoch());
  EXPECT_EQ(meter.total(Phase::kPrefill).weight_bytes + meter.total(Phase::kDecode).weight_bytes, huge);
  EXPECT_EQ(meter.total(Phase::kPrefill).kv_write_bytes + meter.total(Phase::kDecode).kv_write_bytes, 1u);
}

TEST(WorkerMetrics, ATakenAddressIsAStatus) {
  FakeClock clock;
  WorkerMetrics::Options options = TestOptions();
  options.bind_address = "127.0.0.1:0";
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<WorkerMetrics> first, WorkerMetrics::Create(options, &clock));
  options.bind_address = first->address();
  EXPECT_THAT(WorkerMetrics::Create(options, &clock),
              testing::StatusIs(absl::StatusCode::kUnavailable, HasSubstr(first->address())));
}

}  // namespace
}  // namespace dunlin::worker
