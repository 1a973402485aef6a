// Any bytes as a model file: parse, read the configuration, describe, and touch every tensor view.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/quant_format.h"
#include "model/architectures.h"
#include "model/describe.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dunlin;  // NOLINT: a fuzz target is one function
  const std::vector<uint8_t> bytes(data, data + size);
  const absl::StatusOr<model::Gguf> gguf = model::Gguf::Parse(bytes);
  if (!gguf.ok()) {
    CHECK(!gguf.status().message().empty());
    return 0;
  }
  for (const model::GgufTensor& t : gguf->tensors()) {
    CHECK_EQ(t.data.size(), kernels::RowBytes(t.type, t.num_elements()));
    std::vector<float> row(static_cast<size_t>(t.cols()));
    kernels::DequantizeRow(t.type, t.data.last(kernels::RowBytes(t.type, t.cols())), row);
  }
  CHECK(!model::DescribeGguf(*gguf, true).empty());
  CHECK(!model::DescribeGguf(*gguf, false).empty());
  const absl::StatusOr<model::ModelConfig> config = model::ReadModelConfig(*gguf);
  if (!config.ok()) {
    CHECK(!config.status().message().empty());
    return 0;
  }
  // What was accepted can be loaded: the tensors are found and the numbers are usable.
  for (int layer = 0; layer < config->num_layers; ++layer) {
    CHECK(model::FindLayerTensors(*gguf, *config, layer).ok()) << layer;
  }
  CHECK_GT(config->kv_values_per_token(), 0);
  CHECK_EQ(config->rope_inv_freq.size(), static_cast<size_t>(config->rope_dims / 2));
  for (const double f : config->rope_inv_freq) CHECK(std::isfinite(f) && f > 0.0) << f;
  return 0;
}
