#include "tools/device_assignment.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dunlin::tools {
namespace {

bool IsDevice(absl::string_view entry) {
  return absl::StartsWith(entry, "GPU-") || absl::StartsWith(entry, "MIG-") ||
         (!entry.empty() && std::all_of(entry.begin(), entry.end(), absl::ascii_isdigit));
}

}  // namespace

std::vector<std::string> VisibleCudaDevices(const char* environment, const std::string& root) {
  std::vector<std::string> devices;
  if (environment != nullptr) {
    for (const absl::string_view part : absl::StrSplit(environment, ',')) {
      const absl::string_view entry = absl::StripAsciiWhitespace(part);
      if (!IsDevice(entry)) break;
      devices.emplace_back(entry);
    }
    return devices;
  }
  std::error_code error;
  for (const auto& gpu : std::filesystem::directory_iterator(root + "/proc/driver/nvidia/gpus", error)) {
    (void)gpu;
    devices.push_back(absl::StrCat(devices.size()));
  }
  return devices;
}

uint32_t Assignment::sharing() const {
  if (devices.empty()) return workers;
  const auto n = static_cast<uint32_t>(devices.size());
  return (workers + n - 1) / n;
}

Assignment AssignDevices(uint32_t asked_workers, absl::string_view device, std::vector<std::string> visible) {
  Assignment a;
  // With one device there is nothing to divide, and "auto" may still come to the CPU.
  if (device != "cpu" && visible.size() > 1) a.devices = std::move(visible);
  a.workers = asked_workers != 0 ? asked_workers : std::max(1u, static_cast<uint32_t>(a.devices.size()));
  if (a.devices.size() > a.workers) a.devices.resize(a.workers);
  return a;
}

}  // namespace dunlin::tools
