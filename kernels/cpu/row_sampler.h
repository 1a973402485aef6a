// The sample op of one row without sorting the vocabulary: block maxima give a threshold, only tokens above it are
// gathered and sorted, and the threshold sinks when the draw needs more of them. Answers what SampleReference answers
// (sampling.h); sums over the whole vocabulary are taken in f32 runs, so a draw could differ only where the uniform
// lies within 1e-6 of the border between two tokens. Thread-safety: one caller at a time.  Owns: scratch for one row.
// Errors: CHECK on ids outside the vocabulary. Cost: two passes over the logits, plus one per set of adjustments; no
// allocation after Reserve.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ROW_SAMPLER_H_
#define DUNLIN_KERNELS_CPU_ROW_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/sampling.h"

namespace dunlin::kernels::cpu {

class RowSampler {
 public:
  void Reserve(int max_vocab);
  // logits: [vocab], vocab <= max_vocab. result is overwritten.
  void Sample(const KernelTable& kernels, const float* logits, int vocab, const SampleParams& params,
              SampleResult* result);

 private:
  struct Candidate {
    int32_t id;
    double logit;
    double p;
  };

  // Points keys_ (and exact_, where something is adjusted) at the row.
  void Adjust(const float* logits, int vocab, const SampleParams& params);
  void ScanBlocks(const KernelTable& kernels, const float* keys, int vocab);
  // Gathers a set that holds the n largest keys above minus infinity, ties included; true when that is all of them.
  bool Gather(const float* keys, int vocab, size_t n);
  double Exact(int32_t id) const;
  int32_t Argmax(const float* keys, int vocab);
  int32_t Draw(const KernelTable& kernels, int vocab, const SampleParams& params);
  void KeepTypical(double typical_p);
  void Describe(const KernelTable& kernels, const float* logits, int vocab, int num_top, SampleResult* result);

  const float* keys_ = nullptr;    // adjusted logits, rounded
  const double* exact_ = nullptr;  // adjusted logits; nullptr = keys_ are exact
  std::unique_ptr<float[]> key_memory_;
  std::unique_ptr<double[]> exact_memory_;
  std::vector<float> block_max_;
  std::vector<float> sorted_max_;
  std::unique_ptr<Candidate[]> candidates_;
  size_t num_candidates_ = 0;
};

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ROW_SAMPLER_H_
