// The law of the rooms: scans every #include of the tree against the table of ARCHITECTURE's section 2. No arrow that
// the table lacks, no third-party header outside its wall.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

// Room -> rooms it may include (itself always).
const std::map<std::string, Names> kAllowed = {
    {"base", {}},
    {"proto", {"base"}},
    {"kernels", {"base"}},
    {"kvstore", {"base"}},
    {"model", {"base", "kernels"}},
    {"worker", {"base", "proto", "kernels", "kvstore", "model"}},
    {"gateway", {"base", "proto", "model"}},
    {"tools", {"base", "proto", "kernels", "kvstore", "model", "worker", "gateway"}},
    {"tests", {"base", "proto", "kernels", "kvstore", "model", "worker", "gateway", "tools"}},
};
// What model/ and kernels/ may see of the rooms below, more narrowly than a whole room.
const std::map<std::string, Names> kAllowedHeaders = {
    {"kernels->base", {"base/check.h"}},
    {"model->kernels", {"kernels/dtype.h", "kernels/group_format.h", "kernels/quant_format.h"}},
};

struct Include {
  std::string file;  // relative to the root
  int line;
  std::string target;
};

// What `#include <x>` or `#include "x"` names; "" for any other line.
std::string IncludeTarget(const std::string& line) {
  size_t at = line.find_first_not_of(" \t");
  if (at == std::string::npos || line[at] != '#') return "";
  at = line.find_first_not_of(" \t", at + 1);
  if (at == std::string::npos || line.compare(at, 7, "include") != 0) return "";
  const size_t open = line.find_first_of("<\"", at + 7);
  if (open == std::string::npos) return "";
  const size_t close = line.find_first_of(">\"", open + 1);
  return close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

std::vector<Include> AllIncludes() {
  const fs::path root = DUNLIN_SOURCE_DIR;
  std::vector<Include> out;
  for (const auto& [room, unused] : kAllowed) {
    if (!fs::exists(root / room)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / room)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream in(entry.path());
      std::string text;
      for (int line = 1; std::getline(in, text); ++line) {
        const std::string target = IncludeTarget(text);
        if (!target.empty()) out.push_back({fs::relative(entry.path(), root).string(), line, target});
      }
    }
  }
  return out;
}

std::string Room(const std::string& path) { return path.substr(0, path.find('/')); }
bool StartsWith(const std::string& s, const std::string& prefix) { return s.rfind(prefix, 0) == 0; }

// The generated protobuf headers of our own contracts.
bool IsGenerated(const std::string& target) { return target.find(".pb.h") != std::string::npos; }

std::string Violation(const Include& inc) {
  const std::string from = Room(inc.file);
  const std::string to = Room(inc.target);
  const bool rpc =
      IsGenerated(inc.target) || StartsWith(inc.target, "grpc") || StartsWith(inc.target, "google/protobuf");
  if (rpc) {
    const bool allowed = from == "proto" || from == "gateway" || from == "tools" || from == "tests" ||
                         StartsWith(inc.file, "worker/service/") || StartsWith(inc.file, "worker/main.cc") ||
                         StartsWith(inc.file, "worker/worker_process.");
    return allowed ? "" : "gRPC and Protobuf belong to proto/, gateway/, worker/service/, tools/ and the mains";
  }
  if (StartsWith(inc.target, "prometheus/")) {
    const bool metrics = inc.file.find("metrics.") != std::string::npos ||
                         inc.file.find("metrics_test.") != std::string::npos ||
                         inc.file.find("main.cc") != std::string::npos;
    return metrics ? "" : "prometheus belongs to metrics.* and the mains";
  }
  if (StartsWith(inc.target, "absl/") && from == "kernels")
    return "kernels/ takes the standard library and base/check.h only";
  if (!kAllowed.contains(to) || inc.target.find('/') == std::string::npos || to == from) return "";
  if (!kAllowed.at(from).contains(to)) return "the table has no arrow " + from + " -> " + to;
  const auto narrow = kAllowedHeaders.find(from + "->" + to);
  if (narrow != kAllowedHeaders.end() && !narrow->second.contains(inc.target)) {
    return from + "/ may include only part of " + to + "/, not this header";
  }
  return "";
}

TEST(Layering, EveryIncludeFollowsTheTable) {
  const std::vector<Include> includes = AllIncludes();
  ASSERT_GT(includes.size(), 100u) << "the scan found too little: is DUNLIN_SOURCE_DIR right?";
  for (const Include& inc : includes) {
    const std::string why = Violation(inc);
    EXPECT_TRUE(why.empty()) << inc.file << ':' << inc.line << ": includes " << inc.target << ": " << why;
  }
}

TEST(Layering, TheTableHasNoCycle) {
  std::set<std::string> done;
  while (done.size() < kAllowed.size()) {
    const size_t before = done.size();
    for (const auto& [room, below] : kAllowed) {
      bool ready = true;
      for (const std::string& b : below) ready = ready && done.contains(b);
      if (ready) done.insert(room);
    }
    ASSERT_GT(done.size(), before) << "a cycle among the rooms that are not done";
  }
}

TEST(Layering, IncludeLinesAreRecognised) {
  EXPECT_EQ(IncludeTarget("#include \"base/check.h\"  // why"), "base/check.h");
  EXPECT_EQ(IncludeTarget("  #  include <vector>"), "vector");
  EXPECT_EQ(IncludeTarget("// #include <vector>"), "");
  EXPECT_EQ(IncludeTarget("#define X \"a\""), "");
}

// The check itself must be able to fail.
TEST(Layering, AForbiddenArrowIsReported) {
  EXPECT_NE(Violation({"kvstore/a.cc", 1, "kernels/ops.h"}), "");
  EXPECT_NE(Violation({"gateway/a.cc", 1, "worker/model_runner.h"}), "");
  EXPECT_NE(Violation({"worker/engine/engine.cc", 1, "grpcpp/grpcpp.h"}), "");
  EXPECT_NE(Violation({"kernels/ops.h", 1, "absl/status/status.h"}), "");
  EXPECT_NE(Violation({"model/a.cc", 1, "kernels/ops.h"}), "");
  EXPECT_EQ(Violation({"worker/service/a.cc", 1, "grpcpp/grpcpp.h"}), "");
  EXPECT_EQ(Violation({"model/a.cc", 1, "kernels/dtype.h"}), "");
}

}  // namespace
