// `dunlin info`, `tokenize` and `template`: what a model file says, on stdout. Input comes from stdin.
// Thread-safety: call from one thread.  Errors: on stderr; the functions return the exit code.
#ifndef DUNLIN_TOOLS_MODEL_COMMANDS_H_
#define DUNLIN_TOOLS_MODEL_COMMANDS_H_

#include <string>

namespace dunlin::tools {

struct InfoOptions {
  std::string file;
  bool json = false;
};
int Info(const InfoOptions& options);

struct TokenizeOptions {
  std::string model;
  bool add_special = true;    // BOS and EOS as the model says
  bool parse_special = true;  // special-token text becomes special tokens
  bool detokenize = false;    // ids on stdin, text on stdout
  bool json = false;          // ids and pieces
};
int Tokenize(const TokenizeOptions& options);

struct TemplateOptions {
  std::string model;  // take the template (and the BOS and EOS texts) from this file
  std::string file;   // or read it from here
  std::string now;    // "2024-07-26T12:00:00": fixes strftime_now; "" = the clock
};
int Template(const TemplateOptions& options);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_MODEL_COMMANDS_H_
