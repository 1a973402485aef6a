// Names of GGUF's value types and tensor types, for messages and listings, and which ids the format knows at all.
// Thread-safety: constants only.  Source: the published GGUF specification and the reference type enumeration.
#ifndef DUNLIN_MODEL_GGUF_GGUF_TYPES_H_
#define DUNLIN_MODEL_GGUF_GGUF_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "model/gguf/gguf.h"

namespace dunlin::model {

// "u8" ... "f64", "bool", "string", "array"; "?" for an id outside 0..12.
const char* GgufTypeName(GgufType type);
// Bytes of one fixed-size value; 0 for strings, arrays and ids outside 0..12.
size_t GgufTypeBytes(GgufType type);

// The name of a tensor type that the format defines, whether or not this build reads it; nullptr for ids that were
// never given out or have been removed.
const char* FormatTensorTypeName(int32_t type_id);

// Text from a file made fit for a message: quoted, escaped, cut after 64 bytes.
std::string Quoted(absl::string_view text);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_GGUF_GGUF_TYPES_H_
