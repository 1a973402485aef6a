#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/trace_replay.h"

namespace dunlin::bench {

absl::Status ParseTrace(absl::string_view text, Trace* trace) {
  for (int line_number = 1; !text.empty(); ++line_number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const absl::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    const nlohmann::json request = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    const auto bad = [line_number](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", why));
    };
    if (!request.is_object() || !request.contains("hash_ids") || !request["hash_ids"].is_array()) {
      return bad("not an object with an array hash_ids");
    }
    std::vector<int32_t> blocks;
    for (const nlohmann::json& id : request["hash_ids"]) {
      if (!id.is_number_unsigned()) return bad("hash_ids are whole numbers");
      const auto [number, fresh] = trace->numbers.try_emplace(id.get<uint64_t>(), trace->num_blocks());
      const int32_t before = blocks.empty() ? -1 : blocks.back();
      if (fresh) trace->parents.push_back(before);
      // An id names a block together with all that is before it.
      if (trace->parents[static_cast<size_t>(number->second)] != before)
        return bad("one block after two different ones");
      blocks.push_back(number->second);
    }
    if (blocks.empty()) continue;
    trace->total += static_cast<int64_t>(blocks.size());
    trace->requests.push_back(std::move(blocks));
  }
  return absl::OkStatus();
}

absl::Status ReadTrace(const std::string& path, Trace* trace) {
  // Reads plain files, too.
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  std::string text;
  char buffer[1 << 16];
  int n = 0;
  while ((n = gzread(file.get(), buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(n));
  if (n < 0) return absl::DataLossError(absl::StrCat("cannot read ", path));
  const absl::Status parsed = ParseTrace(text, trace);
  return parsed.ok() ? parsed : absl::Status(parsed.code(), absl::StrCat(path, ": ", std::string(parsed.message())));
}

}  // namespace dunlin::bench
