// kv_accuracy_bench --model M.gguf [--windows N] [--threads N] [--path fast|f32] [--text FILE]: kv_accuracy.h.
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "tests/bench/kv_accuracy.h"

int main(int argc, char** argv) {
  CLI::App app("What 8-bit KV pages cost a model, against f32 pages on the same path.", "kv_accuracy_bench");
  dunlin::testing::KvAccuracyOptions o;
  std::string path = "fast";
  app.add_option("--model", o.model, "a GGUF file")->required();
  app.add_option("--text", o.text, "text to score; default: the golden windows, which are the default model's");
  app.add_option("--windows", o.windows, "windows of 512 tokens")->capture_default_str();
  app.add_option("--window-tokens", o.window.tokens, "tokens of a window")->capture_default_str();
  app.add_option("--first-scored", o.window.first_scored, "first position of a window that is scored")
      ->capture_default_str();
  app.add_option("--threads", o.threads, "0 = every core this process may use")->capture_default_str();
  app.add_option("--path", path, "arithmetic: fast (int8 activations) or f32")
      ->check(CLI::IsMember({"fast", "f32"}))
      ->capture_default_str();
  app.add_option("--row", o.rows, "only this row, such as \"fp8 nearest\"; repeatable");
  app.add_option("--batch", o.batch, "batch sizes of the timed decode steps; 0 = none")->delimiter(',');
  app.add_option("--steps", o.steps, "timed decode steps")->capture_default_str();
  app.add_option("--depth", o.depth, "context of the timed decode steps")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  o.f32 = path == "f32";
  if (o.batch == std::vector<int>{0}) o.batch.clear();
  return dunlin::testing::RunKvAccuracy(o, std::cout, std::cerr);
}
