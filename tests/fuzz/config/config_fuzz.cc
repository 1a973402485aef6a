// Any bytes as a command line and a configuration file: arguments end at a NUL byte each, an empty argument ends the
// list, and the rest is what --config reads. What is accepted must survive printing and handing to a child process.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "proto/config_flags.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dunlin;  // NOLINT: a fuzz target is one function
  std::vector<std::string> args;
  const char* next = reinterpret_cast<const char*>(data);
  const char* const end = next + size;
  while (next != end) {
    const char* const stop = std::find(next, end, '\0');
    args.emplace_back(next, stop);
    next = stop == end ? end : stop + 1;
    if (args.back().empty()) {
      args.pop_back();
      break;
    }
  }
  const std::string text(next, end);
  const ConfigReader reader = [&text](const std::string&) -> absl::StatusOr<std::string> { return text; };
  for (const char* used_by : {kGatewayFlags, kWorkerFlags, kServeFlags}) {
    const absl::StatusOr<ParsedConfig> parsed = ParseArgs(args, used_by, reader);
    if (!parsed.ok()) {
      CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
      CHECK(!parsed.status().message().empty());
      continue;
    }
    v1::ServerConfig again;
    const absl::Status printed = MergeConfigText(ConfigText(parsed->given), "printed", &again);
    CHECK(printed.ok()) << std::string(printed.message());
    v1::ServerConfig expected = parsed->given;
    expected.clear_config();
    CHECK_EQ(ConfigText(again), ConfigText(expected));
    const absl::StatusOr<ParsedConfig> child = ParseArgs(FlagsFromConfig(parsed->config, used_by), used_by, reader);
    CHECK(child.ok()) << std::string(child.status().message());
  }
  return 0;
}
