// CRC-32C (Castagnoli) of bytes: the checksum of the host tier's records.
// Thread-safety: pure function.  Cost: about 8 bytes per 3 cycles where the CPU has the instruction (SSE4.2), 1 byte
// per table look-up otherwise; both give the same value. Source: RFC 3720 appendix B.4 (polynomial 0x1EDC6F41).
#ifndef DUNLIN_WORKER_RUNNERS_CRC32C_H_
#define DUNLIN_WORKER_RUNNERS_CRC32C_H_

#include <cstdint>
#include <span>

namespace dunlin::worker {

uint32_t Crc32c(std::span<const uint8_t> bytes);
// The same without the instruction, for tests.
uint32_t Crc32cPortable(std::span<const uint8_t> bytes);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CRC32C_H_
