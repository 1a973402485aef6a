// Opens a model of any kind this build reads: a GGUF file, or a folder with a Hugging Face checkpoint.
// Thread-safety: pure functions.  Errors: those of GgufFile::Open and HfFolder::Open.
#ifndef DUNLIN_MODEL_HUGGING_FACE_OPEN_MODEL_H_
#define DUNLIN_MODEL_HUGGING_FACE_OPEN_MODEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/model_file.h"

namespace dunlin::model {

absl::StatusOr<std::unique_ptr<ModelFile>> OpenModel(const std::string& path);

// What a model is called when nobody names it: the last part of its path, without ".gguf".
std::string ModelName(absl::string_view path);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_OPEN_MODEL_H_
