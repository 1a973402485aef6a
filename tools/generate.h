// `dunlin generate`: one prompt, streamed to stdout.
// Thread-safety: call once, from the main thread.  Errors: printed; exit code 1, or 130 after Ctrl+C (which cancels the
// call).
#ifndef DUNLIN_TOOLS_GENERATE_H_
#define DUNLIN_TOOLS_GENERATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dunlin::tools {

struct GenerateOptions {
  std::string prompt;   // "-" or empty: read from stdin
  std::string address;  // of a gateway; "" with model: a private server is started for the call
  std::string model;    // GGUF file
  std::string api_key;  // of the server; "" = that of DUNLIN_API_KEY, or none
  bool chat = false;    // the prompt is a user message
  std::string system;   // with chat: system message; "" = the template's own
  std::optional<uint32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  double timeout_seconds = 600;
  bool json = false;  // one JSON object at the end instead of a stream of text
};

int Generate(const GenerateOptions& options);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_GENERATE_H_
