// Pages and the prefix cache beside ListCache: both through the same loops.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <utility>

#include "base/check.h"
#include "kvstore/kv_store.h"
#include "kvstore/page_pool.h"
#include "tests/bench/kv_bench_cases.h"
#include "tests/bench/list_cache.h"

namespace dunlin::bench {
namespace {

constexpr int kPageTokens = 16;
using Clock = std::chrono::steady_clock;

double NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

// Distinct from every other prompt from its first token on.
std::vector<int32_t> Prompt(uint32_t which, int32_t pages) {
  std::vector<int32_t> tokens(static_cast<size_t>(pages * kPageTokens) + 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((which * 2654435761u + static_cast<uint32_t>(i) * 40503u) & 0x1FFFFu);
  }
  tokens[0] = static_cast<int32_t>(which);
  return tokens;
}

class Store {
 public:
  Store(int32_t num_pages, int32_t max_sequences, int32_t prompt_pages) {
    kv::KvOptions options;
    options.num_pages = num_pages;
    options.page_tokens = kPageTokens;
    options.max_sequences = max_sequences;
    options.max_pages_per_sequence = prompt_pages + 1;
    options.hash_key = 1;
    store_ = kv::KvStore::Create(options);
  }
  int32_t Match(std::span<const int32_t> tokens, int32_t* sequence) {
    const kv::MatchResult result = store_->Match("", tokens, {});
    *sequence = static_cast<int32_t>(result.sequence);
    return result.matched_tokens;
  }
  bool Reserve(int32_t sequence, int32_t computed, int32_t num_tokens) {
    return store_->Reserve(Id(sequence), computed, num_tokens) == kv::ReserveOutcome::kGranted;
  }
  void Publish(int32_t sequence, std::span<const int32_t> tokens) { store_->Publish(Id(sequence), tokens); }
  void EndStep() { store_->EndStep(); }
  void Release(int32_t sequence) { store_->Release(Id(sequence)); }

 private:
  static kv::SequenceId Id(int32_t sequence) { return static_cast<kv::SequenceId>(sequence); }
  std::unique_ptr<kv::KvStore> store_;
};

class Baseline {
 public:
  Baseline(int32_t num_pages, int32_t max_sequences, int32_t) : cache_(num_pages, kPageTokens, max_sequences) {}
  int32_t Match(std::span<const int32_t> tokens, int32_t* sequence) { return cache_.Match(tokens, sequence); }
  bool Reserve(int32_t sequence, int32_t, int32_t num_tokens) { return cache_.Reserve(sequence, num_tokens); }
  void Publish(int32_t sequence, std::span<const int32_t> tokens) { cache_.Publish(sequence, tokens); }
  void EndStep() {}
  void Release(int32_t sequence) { cache_.Release(sequence); }

 private:
  ListCache cache_;
};

// Of one cache: nanoseconds per page but for `admit_*`, which are microseconds per prompt.
struct CacheTimes {
  std::vector<double> evict, match, publish, admit_blank, admit_evicting, admit_hit;
};

// A pool of which every page can be cached: prompts of equal length that fill it.
template <typename Cache>
class CacheBench {
 public:
  CacheBench(const KvBenchOptions& options, uint32_t seed)
      : pages_(options.prompt_pages),
        num_prompts_(std::max(1, options.num_pages / options.prompt_pages)),
        cache_(num_prompts_ * pages_, num_prompts_, pages_),
        random_(seed) {}

  void Run(CacheTimes* times) {
    const double all = static_cast<double>(num_prompts_) * pages_;
    times->admit_blank.push_back(AdmitAll(0, 0) / 1e3 / num_prompts_);
    times->publish.push_back(PublishAll(0) / all);
    ReleaseAll();
    // As a long-lived cache is: pages of one prompt lie anywhere.
    Scatter(1);
    times->match.push_back(MatchAll(1) / all);
    times->admit_hit.push_back(AdmitAll(1, pages_ * kPageTokens) / 1e3 / num_prompts_);
    ReleaseAll();
    const double taken = AdmitAll(2, 0);
    times->admit_evicting.push_back(taken / 1e3 / num_prompts_);
    times->evict.push_back((taken + ReleaseAll()) / all);
  }

 private:
  static uint32_t Name(int round, int prompt) { return static_cast<uint32_t>(round * 100'000 + prompt); }
  std::vector<int> Shuffled() {
    std::vector<int> order(static_cast<size_t>(num_prompts_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  // Match and Reserve of every prompt of a round; nanoseconds.
  double AdmitAll(int round, int32_t expected) {
    double total = 0;
    for (const int i : Shuffled()) {
      const std::vector<int32_t> tokens = Prompt(Name(round, i), pages_);
      const std::span<const int32_t> prompt(tokens.data(), tokens.size() - (expected == 0 ? 1 : 0));
      int32_t sequence = 0;
      const Clock::time_point start = Clock::now();
      const int32_t matched = cache_.Match(prompt, &sequence);
      const bool granted = cache_.Reserve(sequence, matched, pages_ * kPageTokens);
      total += NanosecondsSince(start);
      CHECK(granted);
      CHECK_EQ(matched, expected);
      open_.push_back({sequence, i});
      cache_.EndStep();
    }
    return total;
  }

  double PublishAll(int round) {
    double total = 0;
    for (const auto& [sequence, i] : open_) {
      const std::vector<int32_t> tokens = Prompt(Name(round, i), pages_);
      const Clock::time_point start = Clock::now();
      cache_.Publish(sequence, std::span<const int32_t>(tokens).first(tokens.size() - 1));
      total += NanosecondsSince(start);
    }
    return total;
  }

  double ReleaseAll() {
    std::shuffle(open_.begin(), open_.end(), random_);
    const Clock::time_point start = Clock::now();
    for (const auto& [sequence, i] : open_) cache_.Release(sequence);
    open_.clear();
    return NanosecondsSince(start);
  }

  // All prompts of a round grow a page at a time in random order.
  void Scatter(int round) {
    std::vector<int32_t> sequences;
    for (int i = 0; i < num_prompts_; ++i) {
      const std::vector<int32_t> tokens = Prompt(Name(round, i), pages_);
      sequences.emplace_back();
      CHECK_EQ(cache_.Match(tokens, &sequences.back()), 0);
      open_.push_back({sequences.back(), i});
    }
    for (int32_t page = 0; page < pages_; ++page) {
      for (const int i : Shuffled()) {
        CHECK(cache_.Reserve(sequences[static_cast<size_t>(i)], page * kPageTokens, (page + 1) * kPageTokens));
      }
      cache_.EndStep();
    }
    PublishAll(round);
    ReleaseAll();
  }

  // Match of every prompt of a round, each closed again untimed; nanoseconds. What was just matched stays in the
  // processor's caches, as a queue's prompts do.
  double MatchAll(int round) {
    double total = 0;
    for (const int i : Shuffled()) {
      const std::vector<int32_t> tokens = Prompt(Name(round, i), pages_);
      for (const bool timed : {false, true}) {
        int32_t sequence = 0;
        const Clock::time_point start = Clock::now();
        CHECK_EQ(cache_.Match(tokens, &sequence), pages_ * kPageTokens);
        if (timed) total += NanosecondsSince(start);
        cache_.Release(sequence);
      }
    }
    return total;
  }

  const int32_t pages_;
  const int num_prompts_;
  Cache cache_;
  std::mt19937 random_;
  std::vector<std::pair<int32_t, int>> open_;  // sequence, prompt
};

// Frees a random half of a pool of references and takes as many again, 16 at a time; nanoseconds per page.
double TimePool(const KvBenchOptions& options, uint32_t seed) {
  constexpr size_t kBatch = 16;
  kv::PagePool pool(options.num_pages);
  std::vector<kv::PageRef> held(static_cast<size_t>(options.num_pages));
  CHECK(pool.Acquire(held) == kv::ReserveOutcome::kGranted);
  std::mt19937 random(seed);
  std::shuffle(held.begin(), held.end(), random);
  for (size_t i = held.size() / 2; i < held.size(); ++i) held[i].Reset();
  held.resize(held.size() / 2);
  std::shuffle(held.begin(), held.end(), random);
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i + kBatch <= held.size(); i += kBatch) {
    const std::span<kv::PageRef> batch(&held[i], kBatch);
    for (kv::PageRef& ref : batch) ref.Reset();
    CHECK(pool.Acquire(batch) == kv::ReserveOutcome::kGranted);
  }
  return NanosecondsSince(start) / static_cast<double>(held.size() / kBatch * kBatch);
}

double TimeListPool(const KvBenchOptions& options, uint32_t seed) {
  const int32_t sequences = options.num_pages / 16;
  ListCache cache(options.num_pages, kPageTokens, sequences);
  const std::vector<int32_t> tokens = Prompt(0, 1);
  std::vector<int32_t> held(static_cast<size_t>(sequences / 2));
  std::mt19937 random(seed);
  for (const bool fill : {true, false}) {
    for (int32_t& sequence : held) {
      if (!fill) cache.Release(sequence);
    }
    for (int32_t& sequence : held) {
      cache.Match(tokens, &sequence);
      CHECK(cache.Reserve(sequence, kPageTokens * 16));
    }
    std::shuffle(held.begin(), held.end(), random);
  }
  const Clock::time_point start = Clock::now();
  for (int32_t& sequence : held) {
    cache.Release(sequence);
    cache.Match(tokens, &sequence);
    CHECK(cache.Reserve(sequence, kPageTokens * 16));
  }
  return NanosecondsSince(start) / (16.0 * static_cast<double>(held.size()));
}

template <typename Cache>
CacheTimes TimeCache(const KvBenchOptions& options) {
  CacheTimes times;
  for (int r = 0; r < options.repeat; ++r) CacheBench<Cache>(options, static_cast<uint32_t>(r)).Run(&times);
  return times;
}

}  // namespace

double Percentile(std::vector<double> values, double fraction) {
  CHECK(!values.empty());
  const auto at = static_cast<size_t>(fraction * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

double Median(std::vector<double> values) { return Percentile(std::move(values), 0.5); }

std::vector<KvFigure> RunPageFigures(const KvBenchOptions& options) {
  std::vector<double> ours, list;
  for (int r = 0; r < options.repeat; ++r) {
    ours.push_back(TimePool(options, static_cast<uint32_t>(r)));
    list.push_back(TimeListPool(options, static_cast<uint32_t>(r)));
  }
  return {{"page: free and take a blank one", "ns", 10, Median(ours), Median(list)}};
}

std::vector<KvFigure> RunCacheFigures(const KvBenchOptions& options) {
  const CacheTimes ours = TimeCache<Store>(options), list = TimeCache<Baseline>(options);
  const auto figure = [](const char* name, const char* unit, double target, const std::vector<double>& a,
                         const std::vector<double>& b) {
    return KvFigure{name, unit, target, Median(a), Median(b)};
  };
  return {figure("page: take an evicted one and free it", "ns", 40, ours.evict, list.evict),
          figure("prefix match, per page", "ns", 100, ours.match, list.match),
          figure("publish, per page", "ns", -1, ours.publish, list.publish),
          figure("admit a prompt, nothing cached, pages blank", "us", 70, ours.admit_blank, list.admit_blank),
          figure("admit a prompt, nothing cached, pages evicted", "us", 70, ours.admit_evicting, list.admit_evicting),
          figure("admit a prompt, all cached", "us", 70, ours.admit_hit, list.admit_hit)};
}

}  // namespace dunlin::bench
