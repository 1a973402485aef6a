#include "kernels/cuda/sampler.h"

#include <climits>

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sampler_search.h"

namespace dunlin::kernels::cuda {
namespace sampler {
namespace {

// The ends of a row; of a row of -infinity only, both keys are kKeyOfNone.
struct Extent {
  uint32_t max_key;
  int32_t best;        // the first token of max_key
  uint32_t least_key;  // above -infinity
};

DUNLIN_DEV Extent FindExtent(Shared* shared, const float* row, int vocab) {
  uint64_t best = 0, least = 0;
  ForEach(row, vocab, [&](uint32_t key, int32_t id) {
    const uint64_t as_max = uint64_t{key} << 32 | static_cast<uint32_t>(~id);
    best = as_max > best ? as_max : best;
    const uint64_t as_least = key > kKeyOfNone ? static_cast<uint32_t>(~key) : 0;
    least = as_least > least ? as_least : least;
  });
  BlockMax(shared, &best, &least);
  const auto max_key = static_cast<uint32_t>(best >> 32);
  return {max_key, static_cast<int32_t>(~static_cast<uint32_t>(best)),
          max_key > kKeyOfNone ? ~static_cast<uint32_t>(least) : kKeyOfNone};
}

// All tokens of the row whose key is at least `from`, to be drawn in order of their key.
DUNLIN_DEV View ViewOf(const float* row, int vocab, const Extent& extent, float temperature, uint32_t from) {
  View v{};
  v.row = row;
  v.vocab = vocab;
  v.scale = ScaleOf(extent.max_key, temperature);
  const float span = -RoundedLog2(v.scale, extent.least_key);
  constexpr float kLeastSpan = 0x1p-60f;  // of a row without a span: 0 times the quotient is 0
  const float spanned = span < -kLeastLog2 ? (span > kLeastSpan ? span : kLeastSpan) : -kLeastLog2;
  v.bins_per_log2 = static_cast<float>(kBins - 1) / spanned;
  v.cut = {from, INT_MAX};
  return v;
}

DUNLIN_DEV bool IsAdjusted(const DeviceSampleParams& p) {
  return p.penalties_end > p.penalties_begin || p.biases_end > p.biases_begin || p.allowed_end > p.allowed_begin ||
         p.banned_end > p.banned_begin;
}

DUNLIN_DEV float Penalised(float logit, const TokenCount& t, const DeviceSampleParams& p) {
  if (KeyOf(logit) == kKeyOfNone) return logit;
  const double repetition = static_cast<double>(p.repetition_penalty);
  double l = static_cast<double>(logit);
  l = l > 0.0 ? l / repetition : l * repetition;
  if (t.in_output) l -= static_cast<double>(p.frequency_penalty) * t.count + static_cast<double>(p.presence_penalty);
  return static_cast<float>(l);
}

// Biases, allowed and banned tokens, penalties: `to` becomes the row they make of `raw`.
DUNLIN_DEV void Adjust(const float* raw, int vocab, const DeviceSampleParams& p, const DeviceSampleLists& lists,
                       float* to) {
  const float none = ValueOf(kKeyOfNone);
  const bool all = p.allowed_end == p.allowed_begin;
  ForEach(raw, vocab, [&](uint32_t key, int32_t id) { to[id] = all ? ValueOf(key) : none; });
  dev::SyncThreads();
  for (int i = p.allowed_begin + dev::ThreadX(); i < p.allowed_end; i += kThreads) {
    to[lists.ids[i]] = ValueOf(KeyOf(raw[lists.ids[i]]));
  }
  dev::SyncThreads();
  for (int i = p.biases_begin + dev::ThreadX(); i < p.biases_end; i += kThreads) {
    to[lists.biases[i].id] += lists.biases[i].bias;
  }
  dev::SyncThreads();
  for (int i = p.banned_begin + dev::ThreadX(); i < p.banned_end; i += kThreads) to[lists.ids[i]] = none;
  dev::SyncThreads();
  for (int i = p.penalties_begin + dev::ThreadX(); i < p.penalties_end; i += kThreads) {
    const TokenCount t = lists.counts[i];
    to[t.id] = Penalised(to[t.id], t, p);
  }
  dev::SyncThreads();
}

// The mean surprise of the view's tokens, of this mass in all: the entropy but for a constant that the distance to it
// does not see.
DUNLIN_DEV uint32_t MeanSurprise(Shared* shared, const View& v, uint64_t mass) {
  uint64_t sum = 0;  // of mass times surprise in units of 2^-44: 0.54 kOne at most for a token
  ForEach(v.row, v.vocab, [&](uint32_t key, int32_t id) {
    if (!IsMember(v, key, id)) return;
    sum += MultiplyHigh(MassOf(v.scale, key) << 19, uint64_t{SurpriseOf(v.scale, key)} << 20);
  });
  sum = BlockSum(shared, sum);
  const double mean = static_cast<double>(sum) / static_cast<double>(mass);
  return static_cast<uint32_t>(mean * static_cast<double>(kSurpriseUnits) + 0.5);
}

// What is cumulated before the last token that is kept of a part of the mass: the first always is.
DUNLIN_DEV uint64_t TargetOf(float fraction, uint64_t mass) {
  const uint64_t part = PartOf(fraction, mass);
  return part > 0 ? part - 1 : 0;
}

// The mass of the tokens whose own is at least `least`.
DUNLIN_DEV uint64_t MassAbove(Shared* shared, const View& v, uint64_t least) {
  uint64_t sum = 0;
  ForEach(v.row, v.vocab, [&](uint32_t key, int32_t id) {
    if (!IsMember(v, key, id)) return;
    const uint64_t mass = MassOf(v.scale, key);
    sum += mass >= least ? mass : 0;
  });
  return BlockSum(shared, sum);
}

// The rules in the order of sampling.h, as steps of one loop: each is code of thousands of instructions, there once.
// What top-k, top-p and min-p keep is a beginning of the order, so one histogram serves their searches and the draw's;
// typical-p has an order of its own, and its histogram is then of no more use.
DUNLIN_DEV int32_t Draw(Shared* shared, const float* row, int vocab, const Extent& extent,
                        const DeviceSampleParams& p) {
  enum Step { kTopK, kOrderByDistance, kTypical, kTopP, kMinP, kDraw };
  const bool typical = p.typical_p > 0.0f && p.typical_p < 1.0f;
  View v = ViewOf(row, vocab, extent, p.temperature, kKeyOfNone + 1);
  uint64_t mass = 0;
  bool stale = true;  // the histogram
  for (int step = kTopK;; ++step) {
    if (step == kOrderByDistance && typical) {
      v.mean = MeanSurprise(shared, v, mass);
      v.by_distance = stale = true;
    }
    if (stale) mass = Build(shared, v);
    stale = false;
    uint64_t target = 0;  // of kMinP: the most likely token
    if (step == kTopK) target = static_cast<uint64_t>(p.top_k) - 1;
    if (step == kTypical) target = TargetOf(p.typical_p, mass);
    if (step == kTopP) target = TargetOf(p.top_p, mass);
    if (step == kDraw) target = DrawFrom(mass, p.seed, p.position);
    const bool on = (step == kTopK && p.top_k > 0 && target + 1 < shared->first.count[kBins - 1]) ||
                    (step == kTypical && typical) || (step == kTopP && p.top_p < 1.0f) ||
                    (step == kMinP && p.min_p > 0.0f) || step == kDraw;
    if (!on) continue;
    const Found found = Search(shared, v, step != kTopK, target);
    if (step == kDraw) return found.id;
    if (step == kTypical) {
      v.distance = DistanceOf(v, found.key);
      v.tie = {found.key, found.id};
      v.by_distance = false;
      v.typical = stale = true;
    } else if (step == kMinP) {
      mass = MassAbove(shared, v, PartOf(p.min_p, MassOf(v.scale, found.key)));
    } else {
      v.cut = {found.key, found.id};
      mass = found.mass_through;
    }
  }
}

DUNLIN_DEV int32_t Choose(Shared* shared, const float* raw, int vocab, const DeviceSampleParams& p,
                          const DeviceSampleLists& lists, float* scratch) {
  const bool adjusted = IsAdjusted(p);
  if (adjusted) Adjust(raw, vocab, p, lists, scratch);
  const float* row = adjusted ? scratch : raw;
  bool greedy = p.temperature == 0.0f;
  for (;;) {
    const Extent extent = FindExtent(shared, row, vocab);
    if (extent.max_key == kKeyOfNone && row != raw) {  // everything is banned: the most likely raw token
      row = raw;
      greedy = true;
      continue;
    }
    if (greedy || extent.max_key == kKeyOfNone || extent.max_key == kKeyOfInfinity) return extent.best;
    return Draw(shared, row, vocab, extent, p);
  }
}

// The token's logprob and rank and the most likely tokens, of the raw logits.
DUNLIN_DEV void Describe(Shared* shared, const float* raw, int vocab, int32_t token, int num_top,
                         DeviceSampleResult* result) {
  const Extent extent = FindExtent(shared, raw, vocab);
  const View v = ViewOf(raw, vocab, extent, 1.0f, kKeyOfNone);
  const double log_sum = LogOf(Build(shared, v));
  const auto logprob = [&](uint32_t key) {
    const double above =
        key == extent.max_key ? 0.0 : static_cast<double>(ValueOf(key)) - static_cast<double>(v.scale.max);
    return static_cast<float>(above - log_sum);
  };
  const int num = num_top < vocab ? num_top : vocab;
  Cut last{UINT32_MAX, -1};  // keeps none
  if (num > 0) {
    const Found found = Search(shared, v, false, static_cast<uint64_t>(num) - 1);
    last = {found.key, found.id};
  }
  if (dev::ThreadX() == 0) shared->list_size = 0;
  dev::SyncThreads();
  const Cut own{KeyOf(raw[token]), token};
  uint64_t rank = 0;
  ForEach(raw, vocab, [&](uint32_t key, int32_t id) {
    rank += Within(own, key, id) ? 1 : 0;
    if (!Within(last, key, id)) return;
    const uint32_t at = dev::AtomicAdd(&shared->list_size, 1u);
    shared->list_order[at] = ~key;
    shared->list_id[at] = id;
  });
  rank = BlockSum(shared, rank);
  if (dev::ThreadX() == 0) {
    result->logprob = logprob(own.key);
    result->rank = static_cast<int32_t>(rank);
  }
  const int i = dev::ThreadX();
  if (i >= kMaxTop) return;
  if (i >= num) {
    result->top_ids[i] = -1;
    return;
  }
  const uint64_t order = shared->list_order[i];
  int place = 0;
  for (int j = 0; j < num; ++j) {
    const uint64_t other = shared->list_order[j];
    place += other < order || (other == order && shared->list_id[j] < shared->list_id[i]) ? 1 : 0;
  }
  result->top_ids[place] = shared->list_id[i];
  result->top_logprobs[place] = logprob(~static_cast<uint32_t>(order));
}

DUNLIN_KERNEL(kThreads, 1)
void SampleRow(const float* logits, int vocab, const int32_t* num_rows, const DeviceSampleParams* params,
               DeviceSampleLists lists, float* scratch, DeviceSampleResult* results) {
  const int row = dev::BlockX();
  if (num_rows != nullptr && row >= *num_rows) return;
  auto* shared = reinterpret_cast<Shared*>(dev::Shared());
  const size_t at = static_cast<size_t>(row) * static_cast<size_t>(vocab);
  const DeviceSampleParams& p = params[row];
  int32_t token = p.forced_token;
  if (token < 0) token = Choose(shared, logits + at, vocab, p, lists, scratch + at);
  if (dev::ThreadX() == 0) {
    results[row].token = token;
    results[row].logprob = 0.0f;
    results[row].rank = 0;
  }
  if (p.num_top >= 0) Describe(shared, logits + at, vocab, token, p.num_top, &results[row]);
}

}  // namespace
}  // namespace sampler

void SampleRows(Device* device, const float* logits, int vocab, int max_rows, const int32_t* num_rows,
                const DeviceSampleParams* params, const DeviceSampleLists& lists, float* scratch,
                DeviceSampleResult* results) {
  CHECK(vocab >= 1 && vocab < sampler::kMaxVocab) << "vocabulary of " << vocab;
  const LaunchConfig config{.grid_x = max_rows, .threads = sampler::kThreads, .shared_bytes = sizeof(sampler::Shared)};
  DUNLIN_LAUNCH(device, config, sampler::SampleRow, logits, vocab, num_rows, params, lists, scratch, results);
}

}  // namespace dunlin::kernels::cuda
