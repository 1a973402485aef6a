// Measures a KvCalibration: the model writes some text itself, then reads it once with f32 pages while keys, values and
// queries are gathered. Needs no corpus, fits every vocabulary, and is the same on every machine: the draws are seeded
// and a row's bits depend on the row alone.
//
// Thread-safety: one caller at a time per Ops; the caller's Reserve must follow (this one reserves what it needs).
// Owns: its pages and scratch, for the call.  Errors: kResourceExhausted when its pages cannot be mapped.
// Cost: kCalibrationTokens / kPieces decode steps and one prefill of kCalibrationTokens. Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_CALIBRATE_H_
#define DUNLIN_WORKER_KV_ROUNDING_CALIBRATE_H_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/ops.h"
#include "kernels/sampling.h"
#include "worker/kv_rounding/observed_ops.h"
#include "worker/kv_rounding/statistics.h"
#include "worker/runners/kv_arena.h"
#include "worker/transformer.h"

namespace dunlin::worker {

// At most; a model's context may hold fewer.
inline constexpr int kCalibrationTokens = 512;
inline constexpr int kCentrePositions = 8192;  // what the keys' mean stands for, and the queries' moment (statistics.h)
inline constexpr int kMetricPositions = 2048;
inline constexpr int kCalibrationPieces = 8;  // texts that it is put together from, written side by side

template <kernels::TransformerOps Ops>
class KvCalibrator {
 public:
  // max_tokens: what net.rope has angles for, at least 1.
  KvCalibrator(Ops* ops, const Network* net, const Weights<typename Ops::Matrix>* weights, int max_tokens)
      : ops_(ops), net_(net), weights_(weights), num_tokens_(std::min(kCalibrationTokens, max_tokens)) {
    kernels::OpLimits limits;
    limits.max_rows = kRows;
    limits.max_outputs = kCalibrationPieces;
    limits.max_context = num_tokens_;
    limits.hidden = net->hidden;
    limits.ffn = net->ffn;
    limits.vocab = net->vocab;
    limits.attention = net->attention;
    ops->Reserve(limits);
    const auto width = [](int n) { return size_t{kRows} * static_cast<size_t>(n); };
    const int q_width = net->attention.num_q_heads * net->attention.head_dim;
    x_.resize(width(net->hidden));
    q_.resize(width(q_width));
    attn_.resize(width(q_width));
    ffn_.resize(width(net->ffn));
    logits_.resize(kCalibrationPieces * static_cast<size_t>(net->vocab));
  }

  // Adds the tokens of a text of the model's own to `statistics`.
  absl::Status Run(KvStatistics* statistics) {
    const kernels::AttentionShape& a = net_->attention;
    const auto layout =
        kernels::PageLayout::Create(kPageTokens, static_cast<int>(weights_->layers.size()), a.num_kv_heads, a.head_dim,
                                    kernels::KvFormat::kF32, kernels::KvFormat::kF32);
    ASSIGN_OR_RETURN(arena_, KvArena::Create(layout, kCalibrationPieces * (num_tokens_ / kPageTokens + 1)));
    pages_.resize(static_cast<size_t>(arena_.view().num_pages));
    std::iota(pages_.begin(), pages_.end(), 0);
    const std::vector<int32_t> text = Write();
    Read(text, statistics);
    return absl::OkStatus();
  }

 private:
  static constexpr int kRows = 256;
  static constexpr int kPageTokens = 16;

  // Runs rows of several sequences; sequence i's pages start at i * pages_per_piece.
  template <typename O>
  void Step(O& ops, const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions,
            std::span<const kernels::SequenceSlice> slices) {
    const kernels::BatchView batch{static_cast<int32_t>(tokens.size()), tokens.data(), positions.data(), slices};
    int64_t saturated = 0;
    ForwardStep(ops, *net_, *weights_, batch, arena_.view(), {x_.data(), q_.data(), attn_.data(), ffn_.data()},
                std::nullopt, &saturated);
  }

  // Pieces that start from some token of the vocabulary each and go on as the model likes, one after another.
  std::vector<int32_t> Write() {
    const int length = (num_tokens_ + kCalibrationPieces - 1) / kCalibrationPieces;
    const int pages = length / kPageTokens + 1;
    std::vector<std::vector<int32_t>> pieces;
    std::vector<int32_t> tokens, positions(kCalibrationPieces), rows(kCalibrationPieces);
    std::vector<kernels::SequenceSlice> slices(kCalibrationPieces);
    std::vector<kernels::SampleParams> params(kCalibrationPieces);
    std::vector<kernels::SampleResult> results(kCalibrationPieces);
    std::iota(rows.begin(), rows.end(), 0);
    for (int i = 0; i < kCalibrationPieces; ++i) {
      const auto seed = static_cast<uint64_t>(i + 1);
      params[static_cast<size_t>(i)].seed = seed;
      tokens.push_back(static_cast<int32_t>(kernels::RandomBits(seed, 0) % static_cast<uint64_t>(net_->vocab)));
      pieces.push_back({tokens.back()});
    }
    for (int position = 0; position + 1 < length; ++position) {
      for (int i = 0; i < kCalibrationPieces; ++i) {
        const auto at = static_cast<size_t>(i);
        positions[at] = position;
        slices[at] = {i, 1, position, pages_.data() + i * pages};
        params[at].position = static_cast<uint64_t>(position + 1);
      }
      Step(*ops_, tokens, positions, slices);
      ops_->Logits(weights_->head(), weights_->output_norm.data(), net_->eps, rows, x_.data(), logits_.data());
      ops_->Sample(logits_.data(), net_->vocab, params, results);
      for (size_t i = 0; i < pieces.size(); ++i) pieces[i].push_back(tokens[i] = results[i].token);
    }
    std::vector<int32_t> text;
    for (const std::vector<int32_t>& piece : pieces) text.insert(text.end(), piece.begin(), piece.end());
    text.resize(static_cast<size_t>(num_tokens_));
    return text;
  }

  void Read(const std::vector<int32_t>& text, KvStatistics* statistics) {
    ObservedOps<Ops> observed(ops_, statistics);
    const int total = static_cast<int>(text.size());
    for (int begin = 0; begin < total; begin += kRows) {
      const int rows = std::min(kRows, total - begin);
      std::vector<int32_t> positions(static_cast<size_t>(rows));
      std::iota(positions.begin(), positions.end(), begin);
      const kernels::SequenceSlice slice{0, rows, begin, pages_.data()};
      Step(observed, {text.begin() + begin, text.begin() + begin + rows}, positions, {&slice, 1});
    }
  }

  Ops* ops_;
  const Network* net_;
  const Weights<typename Ops::Matrix>* weights_;
  int num_tokens_;
  KvArena arena_;
  std::vector<int32_t> pages_;
  std::vector<float> x_, q_, attn_, ffn_, logits_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_CALIBRATE_H_
