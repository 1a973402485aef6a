// Pages and the prefix cache beside ListCache: both through the same loops.
#include <algorithm>
#include <cstddef>
#include <ctime>
#include <list>
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
      const double start = Nanoseconds();
      const int32_t matched = cache_.Match(prompt, &sequence);
      const bool granted = cache_.Reserve(sequence, matched, pages_ * kPageTokens);
      total += Nanoseconds() - start;
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
      const double start = Nanoseconds();
      cache_.Publish(sequence, std::span<const int32_t>(tokens).first(tokens.size() - 1));
      total += Nanoseconds() - start;
    }
    return total;
  }

  double ReleaseAll() {
    std::shuffle(open_.begin(), open_.end(), random_);
    const double start = Nanoseconds();
    for (const auto& [sequence, i] : open_) cache_.Release(sequence);
    open_.clear();
    return Nanoseconds() - start;
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
        const double start = Nanoseconds();
        CHECK_EQ(cache_.Match(tokens, &sequence), pages_ * kPageTokens);
        if (timed) total += Nanoseconds() - start;
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

constexpr size_t kBatch = 16;
constexpr int kPasses = 4;

// Pages of a half full pool in random order: frees 16 and takes 16, until all have been; nanoseconds per page.
double TimePool(const KvBenchOptions& options, uint32_t seed) {
  kv::PagePool pool(options.num_pages);
  std::vector<kv::PageRef> held(static_cast<size_t>(options.num_pages));
  CHECK(pool.Acquire(held) == kv::ReserveOutcome::kGranted);
  std::mt19937 random(seed);
  std::shuffle(held.begin(), held.end(), random);
  held.resize(held.size() / 2 / kBatch * kBatch);
  const double start = Nanoseconds();
  for (int pass = 0; pass < kPasses; ++pass) {
    for (size_t i = 0; i < held.size(); i += kBatch) {
      const std::span<kv::PageRef> batch(&held[i], kBatch);
      for (kv::PageRef& ref : batch) ref.Reset();
      CHECK(pool.Acquire(batch) == kv::ReserveOutcome::kGranted);
    }
  }
  return (Nanoseconds() - start) / static_cast<double>(held.size() * kPasses);
}

// The index that a pool of its own has to tell of an eviction.
class NoIndex final : public kv::EvictionListener {
 public:
  explicit NoIndex(kv::PagePool** pool) : pool_(pool) {}
  void OnEvict(kv::PageId page) override { (*pool_)->SetNode(page, -1); }

 private:
  kv::PagePool** const pool_;
};

// A pool of which all pages are cached, in random order: evicts 16 and frees them again, until all have been.
double TimePoolEvicting(const KvBenchOptions& options, uint32_t seed) {
  kv::PagePool* self = nullptr;
  NoIndex index(&self);
  kv::PagePool pool(options.num_pages, kv::EvictionPolicy{}, &index);
  self = &pool;
  std::vector<kv::PageRef> held(static_cast<size_t>(options.num_pages));
  CHECK(pool.Acquire(held) == kv::ReserveOutcome::kGranted);
  std::mt19937 random(seed);
  std::shuffle(held.begin(), held.end(), random);
  const auto free_all = [&pool](std::span<kv::PageRef> refs) {
    for (kv::PageRef& ref : refs) {
      pool.SetNode(ref.page(), 0);
      pool.SetFate(ref.page(), kv::PageState::kCached);
      ref.Reset();
    }
  };
  free_all(held);
  const size_t batches = held.size() / kBatch;
  const double start = Nanoseconds();
  for (size_t i = 0; i < batches * kPasses; ++i) {
    const std::span<kv::PageRef> batch(held.data(), kBatch);
    CHECK(pool.Acquire(batch) == kv::ReserveOutcome::kGranted);
    free_all(batch);
  }
  return (Nanoseconds() - start) / static_cast<double>(batches * kBatch * kPasses);
}

// The same two on a std::list of what is free: taken from the front, given back at the end. half: of the pool is held
// and changes places with what is free.
double TimeListPool(const KvBenchOptions& options, uint32_t seed, bool half) {
  struct Block {
    int32_t id;
    int32_t references;
    uint64_t hash;
  };
  std::vector<std::shared_ptr<Block>> held;
  for (int32_t i = 0; i < options.num_pages; ++i) held.push_back(std::make_shared<Block>(Block{i, 1, 1}));
  std::mt19937 random(seed);
  std::shuffle(held.begin(), held.end(), random);
  std::list<std::shared_ptr<Block>> free;
  const auto give_back = [&free](std::shared_ptr<Block>* block) {
    if (--(*block)->references == 0) free.push_back(std::move(*block));
  };
  const auto take = [&free](std::shared_ptr<Block>* block) {
    *block = std::move(free.front());
    free.pop_front();
    (*block)->hash = 0;
    (*block)->references = 1;
  };
  for (size_t i = half ? held.size() / 2 : 0; i < held.size(); ++i) give_back(&held[i]);
  // As in a heap that has lived for a while: neighbours in the list lie anywhere.
  free.sort([](const std::shared_ptr<Block>& a, const std::shared_ptr<Block>& b) {
    return static_cast<uint32_t>(a->id) * 2654435761u < static_cast<uint32_t>(b->id) * 2654435761u;
  });
  const size_t batches = (half ? held.size() / 2 : held.size()) / kBatch;
  const double start = Nanoseconds();
  for (size_t i = 0; i < batches * kPasses; ++i) {
    const size_t at = half ? i % batches * kBatch : 0;
    for (size_t k = at; half && k < at + kBatch; ++k) give_back(&held[k]);
    for (size_t k = at; k < at + kBatch; ++k) take(&held[k]);
    for (size_t k = at; !half && k < at + kBatch; ++k) give_back(&held[k]);
  }
  return (Nanoseconds() - start) / static_cast<double>(batches * kBatch * kPasses);
}

template <typename Cache>
CacheTimes TimeCache(const KvBenchOptions& options) {
  CacheTimes times;
  for (int r = 0; r < options.repeat; ++r) CacheBench<Cache>(options, static_cast<uint32_t>(r)).Run(&times);
  return times;
}

}  // namespace

double Nanoseconds() {
  timespec t{};
  CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

double Percentile(std::vector<double> values, double fraction) {
  CHECK(!values.empty());
  const auto at = static_cast<size_t>(fraction * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

double Median(std::vector<double> values) { return Percentile(std::move(values), 0.5); }

std::vector<KvFigure> RunPageFigures(const KvBenchOptions& options) {
  std::vector<double> ours, list, ours_evicting, list_evicting;
  for (int r = 0; r < options.repeat; ++r) {
    const auto seed = static_cast<uint32_t>(r);
    ours.push_back(TimePool(options, seed));
    list.push_back(TimeListPool(options, seed, /*half=*/true));
    ours_evicting.push_back(TimePoolEvicting(options, seed));
    list_evicting.push_back(TimeListPool(options, seed, /*half=*/false));
  }
  return {{"page: free and take, blank", "ns", 10, Median(ours), Median(list)},
          {"page: free and take, evicting", "ns", 40, Median(ours_evicting), Median(list_evicting)}};
}

std::vector<KvFigure> RunCacheFigures(const KvBenchOptions& options) {
  const CacheTimes ours = TimeCache<Store>(options), list = TimeCache<Baseline>(options);
  const auto figure = [](const char* name, const char* unit, double target, const std::vector<double>& a,
                         const std::vector<double>& b) {
    return KvFigure{name, unit, target, Median(a), Median(b)};
  };
  return {figure("page: free and take, evicting, with its index entry", "ns", -1, ours.evict, list.evict),
          figure("prefix match, per page", "ns", 100, ours.match, list.match),
          figure("publish, per page", "ns", -1, ours.publish, list.publish),
          figure("admit a prompt, nothing cached, pages blank", "us", 70, ours.admit_blank, list.admit_blank),
          figure("admit a prompt, nothing cached, pages evicted", "us", 70, ours.admit_evicting, list.admit_evicting),
          figure("admit a prompt, all cached", "us", 70, ours.admit_hit, list.admit_hit)};
}

}  // namespace dunlin::bench
