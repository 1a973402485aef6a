// Any bytes as a checkpoint: config.json, tokenizer.json and a safetensors file, one behind the other, each but the
// last after its length in four bytes. Describe, read the configuration and the vocabulary, and make blocks of every
// tensor.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/group_format.h"
#include "kernels/quant_format.h"
#include "model/hugging_face/hf_folder.h"
#include "model/model_config.h"
#include "model/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::string TakeText(std::span<const uint8_t>* bytes) {
  uint32_t length = 0;
  if (bytes->size() < sizeof length) return "";
  std::memcpy(&length, bytes->data(), sizeof length);
  *bytes = bytes->subspan(sizeof length);
  const size_t taken = length < bytes->size() ? length : bytes->size();
  std::string text(reinterpret_cast<const char*>(bytes->data()), taken);
  *bytes = bytes->subspan(taken);
  return text;
}

// Every tensor's blocks are there, and dequantise.
void ReadTensors(const dunlin::model::HfModel& model) {
  using namespace dunlin;  // NOLINT
  for (const model::GgufTensor& t : model.description.gguf.tensors()) {
    std::vector<uint8_t> blocks(t.data.begin(), t.data.end());
    if (const auto grouped = model.grouped.find(t.name); grouped != model.grouped.end()) {
      blocks.resize(t.num_bytes());
      kernels::GroupToBlocks(grouped->second, t.type, blocks);
    }
    CHECK_EQ(blocks.size(), t.num_bytes());
    const size_t row_bytes = kernels::RowBytes(t.type, t.cols());
    std::vector<float> row(static_cast<size_t>(t.cols()));
    kernels::DequantizeRow(t.type, std::span<const uint8_t>(blocks).last(row_bytes), row);
    if (!t.data.empty()) continue;
    for (const float v : row) CHECK(std::isfinite(v)) << v;
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dunlin;  // NOLINT: a fuzz target is one function
  std::span<const uint8_t> bytes(data, size);
  model::HfTexts texts;
  texts.config = TakeText(&bytes);
  texts.tokenizer = TakeText(&bytes);
  const absl::StatusOr<model::SafeTensors> tensors = model::SafeTensors::Parse(bytes);
  if (!tensors.ok()) CHECK(!tensors.status().message().empty());
  std::vector<const model::SafeTensors*> files;
  if (tensors.ok()) files.push_back(&*tensors);
  const absl::StatusOr<model::HfModel> model = model::DescribeHfModel(texts, files, "fuzz");
  if (!model.ok()) {
    CHECK(!model.status().message().empty());
    return 0;
  }
  ReadTensors(*model);
  const absl::StatusOr<model::ModelConfig> config = model::ReadModelConfig(model->description.gguf);
  if (config.ok()) {
    for (const double f : config->rope_inv_freq) CHECK(std::isfinite(f) && f > 0.0) << f;
  }
  const auto tokenizer = model::Tokenizer::Create(model->description.gguf);
  if (tokenizer.ok()) CHECK_GT((*tokenizer)->vocab_size(), 0);
  return 0;
}
