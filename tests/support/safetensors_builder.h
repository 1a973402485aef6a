// Builds safetensors files in memory, for tests: any tensors, also wrong ones.
// Thread-safety: plain data.  Owns: everything it is given.  Source: the published format.
#ifndef DUNLIN_TESTS_SUPPORT_SAFETENSORS_BUILDER_H_
#define DUNLIN_TESTS_SUPPORT_SAFETENSORS_BUILDER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dunlin::testing {

// A header of any text before any data.
inline std::string SafeTensorsFile(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string out(sizeof size, '\0');
  std::memcpy(out.data(), &size, sizeof size);
  return out + header + data;
}

class SafeTensorsBuilder {
 public:
  // Replaces an earlier tensor of that name.
  SafeTensorsBuilder& Tensor(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                             std::string data) {
    Remove(name);
    entries_.push_back({name, dtype, shape, std::move(data)});
    return *this;
  }
  SafeTensorsBuilder& Remove(const std::string& name) {
    std::erase_if(entries_, [&](const Entry& e) { return e.name == name; });
    return *this;
  }
  std::string Build() const {
    std::vector<std::string> fields;
    std::string data;
    for (const Entry& e : entries_) {
      fields.push_back(absl::StrCat("\"", e.name, "\":{\"dtype\":\"", e.dtype, "\",\"shape\":[",
                                    absl::StrJoin(e.shape, ","), "],\"data_offsets\":[", data.size(), ",",
                                    data.size() + e.data.size(), "]}"));
      data += e.data;
    }
    return SafeTensorsFile(absl::StrCat("{", absl::StrJoin(fields, ","), "}"), data);
  }

 private:
  struct Entry {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::vector<Entry> entries_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_SAFETENSORS_BUILDER_H_
