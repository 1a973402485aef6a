// From a model file to a backend's packed weights, tensor by tensor; the file's pages are given back as they are
// packed, so the peak is one copy of the model (and of one matrix, where the file's form is not the blocks').
// Thread-safety: one loader at a time.  Errors: those of the architecture table (missing or misshapen tensor, by name);
// kResourceExhausted where a backend with memory of its own (Ops::out_of_memory) has no room for the weights.
#ifndef DUNLIN_WORKER_WEIGHTS_H_
#define DUNLIN_WORKER_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/quant_format.h"
#include "model/architectures.h"
#include "model/model_config.h"
#include "model/model_file.h"
#include "worker/transformer.h"

namespace dunlin::worker {

// (bytes packed so far, bytes in all), after each tensor.
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

// cos and sin of every position below `max_positions`, computed in double.
struct RopeAngles {
  std::vector<float> cos, sin;  // [max_positions, dims / 2]
  kernels::RopeTable Table(const model::ModelConfig& config) const;
};
RopeAngles ComputeRopeAngles(const model::ModelConfig& config, int max_positions);

// Everything of Network but the rope table's pointers.
Network DescribeNetwork(const model::ModelConfig& config);

template <typename Ops>
class WeightLoader {
 public:
  using Matrix = typename Ops::Matrix;
  using Floats = typename VectorOfOps<Ops>::type;

  WeightLoader(Ops* ops, const model::ModelFile* file, LoadProgress progress)
      : ops_(ops), file_(file), progress_(std::move(progress)) {
    for (const model::GgufTensor& t : file->gguf().tensors()) total_ += t.num_bytes();
  }

  absl::StatusOr<WeightsOf<Ops>> Load(const model::ModelConfig& config) {
    RETURN_IF_ERROR(model::CheckTensors(file_->gguf(), config));
    WeightsOf<Ops> w;
    ASSIGN_OR_RETURN(const model::ModelTensors tensors, model::FindModelTensors(file_->gguf(), config));
    w.token_embd = Pack(tensors.token_embd);
    if (tensors.output != nullptr) w.output = Pack(tensors.output);
    w.output_norm = Vector(tensors.output_norm);
    w.layers.resize(static_cast<size_t>(config.num_layers));
    for (int i = 0; i < config.num_layers; ++i) {
      ASSIGN_OR_RETURN(const model::LayerTensors t, model::FindLayerTensors(file_->gguf(), config, i));
      LayerWeights<Matrix, Floats>& layer = w.layers[static_cast<size_t>(i)];
      layer.attn_norm = Vector(t.attn_norm);
      layer.q = Pack(t.q);
      layer.k = Pack(t.k);
      layer.v = Pack(t.v);
      layer.q_bias = Vector(t.q_bias);
      layer.k_bias = Vector(t.k_bias);
      layer.v_bias = Vector(t.v_bias);
      layer.q_norm = Vector(t.q_norm);
      layer.k_norm = Vector(t.k_norm);
      layer.o = Pack(t.o);
      layer.ffn_norm = Vector(t.ffn_norm);
      layer.gate = Pack(t.gate);
      layer.up = Pack(t.up);
      layer.down = Pack(t.down);
      RETURN_IF_ERROR(CheckRoom());
    }
    return w;
  }

 private:
  Matrix Pack(const model::GgufTensor* t) {
    Matrix m =
        ops_->Pack(t->type, static_cast<int>(t->rows()), static_cast<int>(t->cols()), file_->Read(*t, &scratch_));
    Done(t);
    return m;
  }
  Floats Vector(const model::GgufTensor* t) {
    if (t == nullptr) return {};
    std::vector<float> v(static_cast<size_t>(t->num_elements()));
    kernels::DequantizeRow(t->type, file_->Read(*t, &scratch_), v);
    Done(t);
    if constexpr (HasOwnVector<Ops>) {
      return ops_->Upload(v);
    } else {
      return v;
    }
  }
  absl::Status CheckRoom() const {
    if constexpr (requires { ops_->out_of_memory(); }) {
      if (ops_->out_of_memory()) {
        return absl::ResourceExhaustedError(absl::StrFormat(
            "the weights do not fit in the device's memory: it was full after %.1f of the file's %.1f MiB",
            static_cast<double>(done_) / (1 << 20), static_cast<double>(total_) / (1 << 20)));
      }
    }
    return absl::OkStatus();
  }
  void Done(const model::GgufTensor* t) {
    file_->DropPages(*t);
    done_ += t->num_bytes();
    if (progress_) progress_(done_, total_);
  }

  Ops* ops_;
  const model::ModelFile* file_;
  LoadProgress progress_;
  std::vector<uint8_t> scratch_;  // of the largest tensor that the file holds in another form
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_WEIGHTS_H_
