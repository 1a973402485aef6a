// What the store keeps for one open sequence. Thread-safety: engine thread only.  Owns: its table.
#ifndef DUNLIN_KVSTORE_OPEN_SEQUENCE_H_
#define DUNLIN_KVSTORE_OPEN_SEQUENCE_H_

#include <cstdint>

#include "kvstore/page_table.h"

namespace dunlin::kv {

struct OpenSequence {
  PageTable table;
  int32_t root = -1;           // of its namespace; -1 without prefix caching
  int32_t indexed = 0;         // leading pages that it found in the index or published
  int32_t matched_tokens = 0;  // by Match
  // The pages that step `write_step` writes; in another step there are none.
  int32_t write_first = 0, write_last = 0;
  uint64_t write_step = 0;
  bool open = false;

  bool writes_in(uint64_t step) const { return open && write_step == step && write_first < write_last; }
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_OPEN_SEQUENCE_H_
