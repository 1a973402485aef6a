// What is in a model file, as text for people or JSON for programs (`dunlin info`).
// Thread-safety: pure function.  Errors: none; a model that this build cannot run is described with the reason.
#ifndef DUNLIN_MODEL_DESCRIBE_H_
#define DUNLIN_MODEL_DESCRIBE_H_

#include <string>

#include "model/gguf/gguf.h"

namespace dunlin::model {

// Version, metadata (long strings and arrays abbreviated), tensor types with counts and bytes, and the configuration.
// Text from the file is escaped, so that it cannot drive a terminal. JSON: one object, invalid UTF-8 replaced.
std::string DescribeGguf(const Gguf& gguf, bool json);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_DESCRIBE_H_
