// The `dunlin` command line: a table of subcommands. Exit codes: 0 done, 1 failed, 2 bad usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <string>
#include <vector>

#include "tools/bench/engine_bench.h"
#include "tools/generate.h"
#include "tools/health.h"
#include "tools/model_commands.h"
#include "tools/serve.h"

namespace {

using namespace dunlin::tools;  // NOLINT(google-build-using-namespace): the commands are all of it

void AddServe(CLI::App* app, int* code) {
  // Its flags are the table of proto/dunlin/v1/config.proto, parsed there; --help included.
  CLI::App* c = app->add_subcommand("serve", "gateway and worker processes on this machine, supervised");
  c->prefix_command();
  c->set_help_flag();
  c->callback([c, code] { *code = Serve(c->remaining()); });
}

void AddGenerate(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("generate", "one prompt, streamed to stdout");
  static GenerateOptions o;
  c->add_option("prompt", o.prompt, "the prompt; - or none: read it from stdin");
  c->add_option("--address", o.address, "a running server's gRPC address, host:port");
  c->add_option("--model", o.model, "a GGUF file or checkpoint folder: starts a private server for this call");
  c->add_option("--api-key", o.api_key, "the server's key; default: the environment's DUNLIN_API_KEY");
  c->add_flag("--chat", o.chat, "the prompt is a user message of a chat");
  c->add_option("--system", o.system, "the chat's system message")->needs("--chat");
  c->add_option("--max-tokens", o.max_tokens, "most tokens to generate");
  c->add_option("--temperature", o.temperature, "0 = greedy");
  c->add_option("--top-p", o.top_p, "nucleus sampling");
  c->add_option("--seed", o.seed, "makes sampling repeatable");
  c->add_option("--stop", o.stop, "end at this text (repeatable)");
  c->add_option("--timeout", o.timeout_seconds, "seconds before the call is given up")->capture_default_str();
  c->add_flag("--json", o.json, "one JSON object at the end");
  c->callback([code] { *code = Generate(o); });
}

void AddInfo(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("info", "what is in a model file");
  static InfoOptions o;
  c->add_option("file", o.file, "a GGUF file or checkpoint folder")->required();
  c->add_flag("--json", o.json, "one JSON object");
  c->callback([code] { *code = Info(o); });
}

void AddTokenize(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("tokenize", "text on stdin to token ids, or back");
  static TokenizeOptions o;
  c->add_option("--model", o.model, "a GGUF file (only its vocabulary is needed) or checkpoint folder")->required();
  c->add_flag_callback(
      "--no-bos", [] { o.add_special = false; }, "add no BOS or EOS");
  c->add_flag_callback(
      "--no-parse-special", [] { o.parse_special = false; }, "special-token text stays text");
  c->add_flag("--detokenize", o.detokenize, "ids on stdin, text on stdout");
  c->add_flag("--json", o.json, "ids and pieces");
  c->callback([code] { *code = Tokenize(o); });
}

void AddTemplate(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("template", "renders a chat template; its variables as JSON on stdin");
  static TemplateOptions o;
  c->add_option("--model", o.model, "take the template from this GGUF file or checkpoint folder");
  c->add_option("--file", o.file, "or from this file")->excludes("--model");
  c->add_option("--now", o.now, "the template's clock, 2024-07-26T12:00:00");
  c->callback([code] { *code = Template(o); });
}

void AddBench(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("bench", "engine-level speed, beside this machine's roofline of the same run");
  static EngineBenchOptions o;
  c->add_option("--model", o.model, "a GGUF file or checkpoint folder")->required();
  c->add_option("--threads", o.threads, "0 = every core this process may use")->capture_default_str();
  c->add_option("--prefill", o.prefill, "prompt lengths, comma-separated; 0 = none")
      ->delimiter(',')
      ->capture_default_str();
  c->add_option("--decode", o.decode, "tokens decoded per sequence; 0 = no decoding")->capture_default_str();
  c->add_option("--batch", o.batch, "batch sizes, comma-separated")->delimiter(',')->capture_default_str();
  c->add_option("--depth", o.depth, "context lengths before decoding, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  c->add_option("--repeat", o.repeat, "runs of each cell; the median counts")->capture_default_str();
  c->add_option("--kv-cache-dtype", o.kv_cache_dtype, "as in serve")->capture_default_str();
  c->add_flag("--json", o.json, "one JSON object");
  c->callback([code] {
    o.progress = !o.json && isatty(STDERR_FILENO) == 1;
    *code = RunEngineBench(o, std::cout, std::cerr);
  });
}

void AddHealth(CLI::App* app, int* code) {
  CLI::App* c = app->add_subcommand("health", "exit code 0 when a server says that it is serving");
  static std::string address;
  static double seconds = 2;
  c->add_option("--address", address, "host:port")->required();
  c->add_option("--timeout", seconds, "seconds")->capture_default_str();
  c->callback([code] { *code = IsServing(address, absl::Seconds(seconds)) ? 0 : 1; });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Dunlin: serves quantised language models over gRPC. `dunlin COMMAND --help` explains each command.",
               "dunlin");
  app.require_subcommand(1);
  int code = 0;
  for (const auto add : {AddServe, AddGenerate, AddInfo, AddTokenize, AddTemplate, AddBench, AddHealth})
    add(&app, &code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {  // the library's way to say --help and bad usage
    if (argc > 1 && argv[1][0] != '-' &&
        app.get_subcommands([argv](const CLI::App* c) { return c->check_name(argv[1]); }).empty()) {
      std::cerr << "dunlin: no command \"" << argv[1] << "\"; `dunlin --help` lists them\n";
      return 2;
    }
    return app.exit(e) == 0 ? 0 : 2;
  }
  return code;
}
