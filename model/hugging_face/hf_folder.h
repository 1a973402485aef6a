// A Hugging Face checkpoint as a model: a folder with config.json, *.safetensors, and where it has them
// quantize_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja. Describe knows no files.
// Thread-safety: const-safe.  Owns: the mappings and the description.  Errors of Open: those of the parts (naming file
// and member or tensor); kNotFound without config.json or weights.  Cost: the headers and the JSON files are read; a
// quantised tensor is transposed when Read, once per load.
#ifndef DUNLIN_MODEL_HUGGING_FACE_HF_FOLDER_H_
#define DUNLIN_MODEL_HUGGING_FACE_HF_FOLDER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf_assembler.h"
#include "model/hugging_face/hf_tensors.h"
#include "model/mapped_file.h"
#include "model/model_file.h"
#include "model/safetensors/safetensors.h"

namespace dunlin::model {

// The small files' texts; empty = the folder has none.
struct HfTexts {
  std::string config;
  std::string quantize_config;
  std::string tokenizer;
  std::string tokenizer_config;
  std::string chat_template;
};

// A checkpoint in GGUF's terms. Views into its own parts and the tensors' bytes; moving keeps them valid.
struct HfModel {
  GgufAssembler::Description description;
  GroupedTensors grouped;
  std::vector<float> rope_freqs;
};

// name: for people. The tensors of all files; their bytes must outlive the result.
absl::StatusOr<HfModel> DescribeHfModel(const HfTexts& texts, const std::vector<const SafeTensors*>& files,
                                        const std::string& name);

class HfFolder : public ModelFile {
 public:
  static absl::StatusOr<std::unique_ptr<HfFolder>> Open(const std::string& path);

  const Gguf& gguf() const override { return model_.description.gguf; }
  const std::string& path() const override { return path_; }
  size_t file_bytes() const override { return file_bytes_; }
  std::span<const uint8_t> Read(const GgufTensor& tensor, std::vector<uint8_t>* scratch) const override;
  std::span<const uint8_t> Stored(const GgufTensor& tensor) const override;
  void DropPages(const GgufTensor& tensor) const override;

 private:
  HfFolder() = default;
  void Drop(std::span<const uint8_t> data) const;

  std::string path_;  // without a slash at its end
  std::vector<std::unique_ptr<MappedFile>> files_;
  size_t file_bytes_ = 0;
  HfModel model_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_HF_FOLDER_H_
