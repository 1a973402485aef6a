// speculation_bench --model M.gguf [--threads N] [--tokens N] [--batch 1,2,8] [--text NAME] [--drafts N] [--repeat N]
// [--temperature T]: decoding with and without speculation in the whole engine, turn by turn, on texts that repeat
// themselves (edit this, continue this list) and on texts that do not. Prints tokens per second of both, tokens per
// step and sequence, and how many drafted tokens were right; fails when an answer depends on speculation. Times depend
// on the machine.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::testing {
namespace {

struct Options {
  std::string model;
  int threads = 0, tokens = 128, drafts = 4, repeat = 3;
  float temperature = 0.2f;
  std::vector<int> batch = {1, 2, 4, 8};
  std::string text;  // only this one; "" = all
};

struct Text {
  const char* name;
  const char* question;
};
constexpr Text kTexts[] = {
    {"edit",
     "Copy the following text word for word and replace the word boat by ship:\n\nThe harbour was quiet when the old "
     "boat came in. Nobody had seen the boat for eleven years, and nobody had asked for it. The captain of the boat "
     "tied it to the northern pier, paid the harbour master in silver coins, and asked where the market was. The "
     "harbour master looked at the boat, looked at the coins, and said that the market was closed on Sundays."},
    {"code",
     "Complete this Python module. Write the same function for multiply, divide and power.\n\ndef add(left, right):\n"
     "    \"\"\"Returns the result of add for left and right.\"\"\"\n    check_number(left)\n    check_number(right)\n"
     "    result = left + right\n    log_result(\"add\", left, right, result)\n    return result\n\n\n"
     "def subtract(left, right):\n    \"\"\"Returns the result of subtract for left and right.\"\"\"\n"
     "    check_number(left)\n    check_number(right)\n    result = left - right\n"
     "    log_result(\"subtract\", left, right, result)\n    return result\n"},
    {"explain", "What is gravity?"},
    {"story", "Write a short story about a lighthouse keeper who finds a letter in a bottle."},
};

struct Measured {
  double tokens_per_second = 0;
  std::vector<std::vector<int32_t>> answers;
  worker::EngineStats stats;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    auto file = model::GgufFile::Open(options.model);
    CHECK(file.ok()) << file.status().ToString();
    auto tokenizer = model::Tokenizer::Create((*file)->gguf());
    CHECK(tokenizer.ok()) << tokenizer.status().ToString();
    tokenizer_ = *std::move(tokenizer);
    worker::RunnerOptions runner;
    runner.max_model_len = 1024;
    runner.threads = options.threads;
    runner.kv_bytes = uint64_t{512} << 20;
    runner.measure_bandwidth = false;
    auto created = worker::CreateCpuRunner(**file, runner);
    CHECK(created.ok()) << created.status().ToString();
    runner_ = *std::move(created);
  }

  // False when an answer differs.
  bool Run() {
    bool same = true;
    std::printf("%-8s %5s  %10s %10s %7s  %12s %9s %9s\n", "text", "batch", "plain t/s", "drafts t/s", "gain",
                "tokens/step", "drafted", "accepted");
    for (const Text& text : kTexts) {
      if (!options_.text.empty() && options_.text != text.name) continue;
      for (const int batch : options_.batch) same = Compare(text, batch) && same;
    }
    return same;
  }

 private:
  bool Compare(const Text& text, int batch) {
    std::vector<double> plain, drafted;
    Measured last[2];
    for (int i = 0; i < options_.repeat; ++i) {
      for (const bool drafts : {false, true}) {
        last[drafts] = Decode(text.question, batch, drafts ? options_.drafts : 0);
        (drafts ? drafted : plain).push_back(last[drafts].tokens_per_second);
      }
    }
    const worker::EngineStats& s = last[1].stats;
    const auto own = static_cast<double>(s.generated_tokens - s.accepted_draft_tokens);
    std::printf("%-8s %5d  %10.1f %10.1f %6.2fx  %12.2f %9llu %8.0f%%%s\n", text.name, batch, Median(plain),
                Median(drafted), Median(drafted) / Median(plain), static_cast<double>(s.generated_tokens) / own,
                static_cast<unsigned long long>(s.draft_tokens),
                s.draft_tokens == 0
                    ? 0
                    : 100.0 * static_cast<double>(s.accepted_draft_tokens) / static_cast<double>(s.draft_tokens),
                last[0].answers == last[1].answers ? "" : "  DIFFERENT ANSWERS");
    std::fflush(stdout);  // a run takes minutes
    return last[0].answers == last[1].answers;
  }

  Measured Decode(const std::string& question, int batch, int drafts) {
    worker::EngineOptions options;
    options.max_num_seqs = std::max(batch, 1);
    options.end_of_generation = tokenizer_->end_of_generation();
    options.num_speculative_tokens = drafts;
    auto core = worker::EngineCore::Create(options, runner_.get(), Clock::Real(), nullptr);
    CHECK(core.ok()) << core.status().ToString();
    Measured m;
    m.answers.resize(static_cast<size_t>(batch));
    std::vector<std::shared_ptr<worker::TokenStream>> streams;
    const auto prompt =
        tokenizer_->Encode(absl::StrCat("<|im_start|>user\n", question, "<|im_end|>\n<|im_start|>assistant\n"), {});
    for (int i = 0; i < batch; ++i) {
      worker::NewSequence s;
      s.prompt = *prompt;
      s.max_tokens = options_.tokens;
      s.sampling.temperature = options_.temperature;
      s.sampling.top_p = 0.9f;
      s.sampling.seed = static_cast<uint64_t>(i);
      s.stream = std::make_shared<worker::TokenStream>();
      streams.push_back(s.stream);
      (*core)->Add(std::move(s), Clock::Real()->Now());
    }
    // The clock runs while all decode: from when the last one has its first token until the first one ends.
    absl::Time begin = absl::InfinitePast(), end = absl::InfiniteFuture();
    uint64_t at_begin = 0, at_end = 0;
    worker::StreamUpdate update;
    while ((*core)->Step()) {
      (*core)->DeliverEnds();
      bool all_began = true, one_ended = false;
      for (size_t i = 0; i < streams.size(); ++i) {
        if (streams[i]->Take(&update)) {
          m.answers[i].insert(m.answers[i].end(), update.tokens.begin(), update.tokens.end());
          one_ended = one_ended || update.end.has_value();
        }
        all_began = all_began && !m.answers[i].empty();
      }
      if (all_began && begin == absl::InfinitePast()) {
        begin = Clock::Real()->Now();
        at_begin = (*core)->stats().generated_tokens;
      }
      if (one_ended && end == absl::InfiniteFuture()) {
        end = Clock::Real()->Now();
        at_end = (*core)->stats().generated_tokens;
      }
    }
    m.stats = (*core)->stats();
    m.tokens_per_second = static_cast<double>(at_end - at_begin) / absl::ToDoubleSeconds(end - begin);
    return m;
  }

  static double Median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  }

  const Options options_;
  std::unique_ptr<const model::Tokenizer> tokenizer_;
  std::unique_ptr<worker::ModelRunner> runner_;
};

}  // namespace
}  // namespace dunlin::testing

int main(int argc, char** argv) {
  CLI::App app("Decoding with and without prompt-lookup speculation.", "speculation_bench");
  dunlin::testing::Options o;
  app.add_option("--model", o.model, "a GGUF file")->required();
  app.add_option("--threads", o.threads, "0 = every core this process may use")->capture_default_str();
  app.add_option("--tokens", o.tokens, "of each answer, at most")->capture_default_str();
  app.add_option("--batch", o.batch, "sequences at once")->delimiter(',')->capture_default_str();
  app.add_option("--text", o.text, "only this one: edit, code, explain or story");
  app.add_option("--drafts", o.drafts, "drafted tokens per step, at most")->capture_default_str();
  app.add_option("--repeat", o.repeat, "turns of each")->capture_default_str();
  app.add_option("--temperature", o.temperature, "0 = greedy")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return dunlin::testing::Bench(o).Run() ? 0 : 1;
}
