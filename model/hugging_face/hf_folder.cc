#include "model/hugging_face/hf_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/quant_format.h"
#include "model/gguf/gguf_types.h"
#include "model/hugging_face/hf_config.h"
#include "model/hugging_face/hf_tokenizer.h"

namespace dunlin::model {
namespace {

constexpr uintmax_t kMaxTextBytes = uintmax_t{256} << 20;

// The whole file, "" when it does not exist.
absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) {
    if (error == std::errc::no_such_file_or_directory) return std::string();
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": ", error.message()));
  }
  if (size > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes; at most ", kMaxTextBytes, " are allowed"));
  }
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) return absl::PermissionDeniedError(absl::StrCat("cannot read ", path));
  return text;
}

absl::StatusOr<HfTexts> ReadTexts(const std::string& folder) {
  HfTexts texts;
  ASSIGN_OR_RETURN(texts.config, ReadText(folder + "/config.json"));
  if (texts.config.empty()) return absl::NotFoundError(absl::StrCat(folder, " has no config.json"));
  ASSIGN_OR_RETURN(texts.quantize_config, ReadText(folder + "/quantize_config.json"));
  ASSIGN_OR_RETURN(texts.tokenizer, ReadText(folder + "/tokenizer.json"));
  ASSIGN_OR_RETURN(texts.tokenizer_config, ReadText(folder + "/tokenizer_config.json"));
  ASSIGN_OR_RETURN(texts.chat_template, ReadText(folder + "/chat_template.jinja"));
  return texts;
}

// Of a sharded checkpoint: the files its index names, which must lie in the folder itself.
absl::StatusOr<std::vector<std::string>> IndexedFiles(const std::string& index_text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(index_text, "model.safetensors.index.json"));
  ASSIGN_OR_RETURN(const JsonObject map, JsonObject(json, "model.safetensors.index.json").Object("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.json().items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!absl::EndsWith(name, ".safetensors") || name.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("model.safetensors.index.json: tensor ", Quoted(tensor),
                                                     " is said to be in ", Quoted(name),
                                                     "; a *.safetensors file of the folder is wanted"));
    }
    names.insert(name);
  }
  return std::vector<std::string>(names.begin(), names.end());
}

absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string index, ReadText(folder + "/model.safetensors.index.json"));
  if (!index.empty()) return IndexedFiles(index);
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  if (error || names.empty()) return absl::NotFoundError(absl::StrCat(folder, " has no *.safetensors file"));
  if (names.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(folder, " has ", names.size(), " *.safetensors files (",
                                                   absl::StrJoin(names, ", "),
                                                   ") and no model.safetensors.index.json that says what belongs"));
  }
  return names;
}

absl::Status AddQuantizationLabel(const std::optional<GptqConfig>& gptq, GgufAssembler* out) {
  if (!gptq.has_value()) return absl::OkStatus();
  const std::string group = gptq->group_size < 0 ? "rows" : absl::StrCat("groups of ", gptq->group_size);
  out->String("dunlin.quantization", absl::StrCat("GPTQ ", gptq->bits, "-bit, ", group));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfModel> DescribeHfModel(const HfTexts& texts, const std::vector<const SafeTensors*>& files,
                                        const std::string& name) {
  ASSIGN_OR_RETURN(const nlohmann::json config_json, ParseJsonObject(texts.config, "config.json"));
  ASSIGN_OR_RETURN(const nlohmann::json quantize_json, ParseJsonObject(texts.quantize_config, "quantize_config.json"));
  ASSIGN_OR_RETURN(const nlohmann::json tokenizer_json, ParseJsonObject(texts.tokenizer, "tokenizer.json"));
  ASSIGN_OR_RETURN(const nlohmann::json tokenizer_config_json,
                   ParseJsonObject(texts.tokenizer_config, "tokenizer_config.json"));
  const JsonObject config(config_json, "config.json");
  GgufAssembler assembler;
  ASSIGN_OR_RETURN(HfConfig hf, DescribeHfConfig(config, name, &assembler));
  ASSIGN_OR_RETURN(const std::optional<GptqConfig> gptq,
                   ReadGptqConfig(config, JsonObject(quantize_json, "quantize_config.json")));
  RETURN_IF_ERROR(AddQuantizationLabel(gptq, &assembler));
  RETURN_IF_ERROR(DescribeHfTokenizer(JsonObject(tokenizer_json, "tokenizer.json"),
                                      JsonObject(tokenizer_config_json, "tokenizer_config.json"), config,
                                      texts.chat_template, &assembler));
  HfModel model;
  ASSIGN_OR_RETURN(model.grouped, DescribeHfTensors(files, hf, gptq, &assembler));
  model.rope_freqs = std::move(hf.rope_freqs);
  if (!model.rope_freqs.empty()) {
    assembler.Tensor("rope_freqs.weight", kernels::DType::kF32, {static_cast<int64_t>(model.rope_freqs.size())},
                     {reinterpret_cast<const uint8_t*>(model.rope_freqs.data()), 4 * model.rope_freqs.size()});
  }
  ASSIGN_OR_RETURN(model.description, assembler.Finish());
  if (hf.tied == false && model.description.gguf.FindTensor("output.weight") == nullptr) {
    return absl::NotFoundError(
        "tensor 'lm_head.weight' is missing, and config.json says 'tie_word_embeddings' is false");
  }
  return model;
}

absl::StatusOr<std::unique_ptr<HfFolder>> HfFolder::Open(const std::string& path) {
  std::unique_ptr<HfFolder> folder(new HfFolder());
  folder->path_ = path;
  while (folder->path_.size() > 1 && folder->path_.back() == '/') folder->path_.pop_back();
  ASSIGN_OR_RETURN(const HfTexts texts, ReadTexts(folder->path_));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, WeightFiles(folder->path_));
  std::vector<SafeTensors> parsed;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(absl::StrCat(folder->path_, "/", name)));
    absl::StatusOr<SafeTensors> tensors = SafeTensors::Parse(file->bytes());
    if (!tensors.ok()) {
      return absl::Status(tensors.status().code(), absl::StrCat(file->path(), ": ", tensors.status().message()));
    }
    parsed.push_back(*std::move(tensors));
    folder->file_bytes_ += file->bytes().size();
    folder->files_.push_back(std::move(file));
  }
  std::vector<const SafeTensors*> files;
  for (const SafeTensors& tensors : parsed) files.push_back(&tensors);
  const std::string name = std::filesystem::path(folder->path_).filename().string();
  absl::StatusOr<HfModel> model = DescribeHfModel(texts, files, name);
  if (!model.ok()) {
    return absl::Status(model.status().code(), absl::StrCat(folder->path_, ": ", model.status().message()));
  }
  folder->model_ = *std::move(model);
  return folder;
}

std::span<const uint8_t> HfFolder::Read(const GgufTensor& tensor, std::vector<uint8_t>* scratch) const {
  const auto grouped = model_.grouped.find(tensor.name);
  if (grouped == model_.grouped.end()) return tensor.data;
  scratch->resize(tensor.num_bytes());
  kernels::GroupToBlocks(grouped->second, tensor.type, *scratch);
  return *scratch;
}

std::span<const uint8_t> HfFolder::Stored(const GgufTensor& tensor) const {
  const auto grouped = model_.grouped.find(tensor.name);
  return grouped == model_.grouped.end() ? tensor.data : grouped->second.qweight;
}

void HfFolder::Drop(std::span<const uint8_t> data) const {
  const auto address = [](const uint8_t* p) { return reinterpret_cast<uintptr_t>(p); };
  for (const std::unique_ptr<MappedFile>& file : files_) {
    const std::span<const uint8_t> all = file->bytes();
    if (address(data.data()) >= address(all.data()) && address(data.data()) < address(all.data()) + all.size()) {
      file->DropPages(data);
    }
  }
}

void HfFolder::DropPages(const GgufTensor& tensor) const {
  const auto grouped = model_.grouped.find(tensor.name);
  if (grouped == model_.grouped.end()) return Drop(tensor.data);
  Drop(grouped->second.qweight);
  Drop(grouped->second.qzeros);
  Drop(grouped->second.scales);
}

}  // namespace dunlin::model
