// Command-line flags and configuration file of the three executables, from one table: the fields of ServerConfig and
// their FlagOptions (proto/dunlin/v1/config.proto), read by reflection. A field max_num_seqs is the flag --max-num-seqs
// (also
// --max_num_seqs) and the file's key max_num_seqs. Flags win over the file, the file over the defaults.
// Thread-safety: pure functions; MainConfig and ReadConfigFile touch the file system, MainConfig also stdout and
// stderr. Errors: kInvalidArgument naming the flag (or FILE:LINE), its value and what is allowed: bad usage, exit
// code 2.
#ifndef DUNLIN_PROTO_CONFIG_FLAGS_H_
#define DUNLIN_PROTO_CONFIG_FLAGS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "dunlin/v1/config.pb.h"

namespace dunlin {

// The words of FlagOptions.used_by.
inline constexpr char kGatewayFlags[] = "gateway";
inline constexpr char kWorkerFlags[] = "worker";
inline constexpr char kServeFlags[] = "serve";

struct ParsedConfig {
  v1::ServerConfig config;  // effective: defaults, then the file, then the flags
  v1::ServerConfig given;   // the same without the defaults: what somebody asked for
  bool help = false;        // --help: nothing else was looked at
  bool print_config = false;
};

// Content of a --config FILE.
using ConfigReader = std::function<absl::StatusOr<std::string>(const std::string& path)>;
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

// args: without the program's name. Takes --flag value, --flag=value, --flag and --no-flag for bools; a repeated
// field's flag may be given several times (together they replace the file's list); of any other flag the last one
// counts.
absl::StatusOr<ParsedConfig> ParseArgs(std::span<const std::string> args, absl::string_view used_by,
                                       const ConfigReader& read_file = ReadConfigFile);

// Merges textproto `text` into *config. Keys of every executable are known here, so one file can serve all of them.
absl::Status MergeConfigText(absl::string_view text, const std::string& file_name, v1::ServerConfig* config);

// Fills every unset field that has a default and that the executable takes.
void ApplyDefaults(absl::string_view used_by, v1::ServerConfig* config);

// The set fields as flags, for a child process that is `used_by`; fields it does not take, --config and secrets
// (command lines are public) are left out. A flag appended after these overrides them.
std::vector<std::string> FlagsFromConfig(const v1::ServerConfig& config, absl::string_view used_by);

// --help, wrapped to `width` columns. `summary`: one or more lines that say what the program does.
std::string HelpText(absl::string_view program, absl::string_view summary, absl::string_view used_by, int width = 100);

// Textproto that --config reads back; of a secret only a comment that it is set. For ServerConfig; any message whose
// fields carry FlagOptions will do.
std::string ConfigText(const google::protobuf::Message& config);

// "4096", "4k" = 4000, "4K" = 4096, "1.5k" = 1500; k m g t are powers of 1000, K M G T of 1024 (whole numbers only).
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

// What each main starts with: parses argv, answers --help and --print-config, prints bad usage. Empty = go on with
// *parsed; else the exit code.
std::optional<int> MainConfig(std::span<const std::string> args, absl::string_view program, absl::string_view summary,
                              absl::string_view used_by, ParsedConfig* parsed);

}  // namespace dunlin

#endif  // DUNLIN_PROTO_CONFIG_FLAGS_H_
