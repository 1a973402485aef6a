// Random damage to model files, as hostile or broken ones have it: flipped bits, extreme numbers, cuts, truncations,
// splices. Thread-safety: pure, given its own generator. Source: ours.
#ifndef DUNLIN_TESTS_SUPPORT_GGUF_MUTATION_H_
#define DUNLIN_TESTS_SUPPORT_GGUF_MUTATION_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace dunlin::testing {

// One to three edits of `seed`, seven in eight of them within its first `header` bytes: offsets that matter lie there.
std::vector<uint8_t> Mutated(std::mt19937_64& rng, const std::vector<uint8_t>& seed, size_t header);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_GGUF_MUTATION_H_
