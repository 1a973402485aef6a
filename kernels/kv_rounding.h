// How K and V are rounded on their way into an 8-bit page, beyond "every value to nearest". What is stored, and who
// reads it, stay as paged_kv.h says; only the choice of the codes differs:
//   - Centring (K): a constant vector of the head is taken off first. It changes every score of a query by the same
//     number, so softmax is as before, and the channels that a model's biases or habits make large become small.
//   - Compensation: the values are rounded one after the other, and each one's error is handed on to those still to
//     come, so that the vector's error is small where the reader looks: in the metric of the queries that will meet the
//     key, or of the output matrix that will meet the value.
// The scale is chosen from the centred vector as without compensation; a value that the feedback pushes past the
// format's end is clipped there, and the rest of it is an error like any other.
//
// Thread-safety: pure functions; views are borrowed.  Errors: CHECK on shapes; a metric that is not positive definite
// is a return value (it may come from a file).  Cost: head_dim^2 / 2 multiply-adds per compensated vector. Source:
// sequential rounding with feedback as GPTQ does it for weights (arXiv 2210.17323), here for cached vectors; centring
// as SageAttention's smoothing of K (arXiv 2410.02367), with a constant instead of the batch's mean.
#ifndef DUNLIN_KERNELS_KV_ROUNDING_H_
#define DUNLIN_KERNELS_KV_ROUNDING_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/paged_kv.h"

namespace dunlin::kernels {

inline constexpr int kMaxRoundedDim = 512;

// Feedback rows come in groups of eight, each without the columns before the group: the multiply-adds that a group of
// eight lanes does are one run of memory. Rows and columns are padded to eight with zeros.
constexpr int KvFeedbackWidth(int head_dim) { return (head_dim + 7) / 8 * 8; }
constexpr size_t KvFeedbackGroupBegin(int head_dim, int group) {
  return static_cast<size_t>(8 * group * KvFeedbackWidth(head_dim) - 32 * group * (group - 1));
}
constexpr size_t KvFeedbackIndex(int head_dim, int i, int j) {
  const int first = i / 8 * 8;
  return KvFeedbackGroupBegin(head_dim, i / 8) +
         static_cast<size_t>((i - first) * (KvFeedbackWidth(head_dim) - first) + j - first);
}
// Floats of one head.
constexpr size_t KvFeedbackValues(int head_dim) {
  return KvFeedbackGroupBegin(head_dim, KvFeedbackWidth(head_dim) / 8);
}

// One of K and V, one layer. nullptr: without.
struct KvVectorRounding {
  const float* centre = nullptr;    // [num_kv_heads, head_dim]
  const uint16_t* order = nullptr;  // [num_kv_heads, head_dim] the dims in the order of their rounding; with feedback
  const float* feedback = nullptr;  // [num_kv_heads, KvFeedbackValues(head_dim)], by place in the order
};
struct KvRounding {
  KvVectorRounding k;
  KvVectorRounding v;
};

// The feedback of one head for the error metric e' M e. metric: [head_dim, head_dim], symmetric. damping times the mean
// of its diagonal is added to the diagonal. order: a permutation of the dims. out: KvFeedbackValues(head_dim).
// False when the metric is not finite and, within a tenth of the damping, positive semidefinite (out is then
// unspecified).
bool MakeKvFeedback(std::span<const double> metric, int head_dim, double damping, std::span<const uint16_t> order,
                    std::span<float> out);

// ---- The definition. Fast kernels must give the same bits. ----

// One head's vector, rounded as `rounding` says (its pointers are those of this head). codes, stride, scale and the
// result as QuantizeE4M3 and QuantizeInt8; format: E4M3 or INT8. A vector with a value that is not finite is rounded
// without feedback. scale: KvScaleBytes(format) bytes. 1 <= x.size() <= kMaxRoundedDim.
//
// With y = (x - centre) / scale in the order given: for i = 0, 1, …: code i = y[i] to nearest even, within the format;
// e = y[i] - code's value; y[j] = fma(e, feedback[i][j], y[j]) for all j > i.
int QuantizeHead(KvFormat format, std::span<const float> x, const KvVectorRounding& rounding, uint8_t* codes,
                 size_t stride, uint8_t* scale);

// AppendToken of paged_kv.h with a rounding. Formats of more than eight bits take no notice of it.
int AppendToken(const PageLayout& layout, uint8_t* page, int layer, int slot, const float* k, const float* v,
                const KvRounding& rounding);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_KV_ROUNDING_H_
