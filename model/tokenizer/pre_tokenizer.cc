#include "model/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace dunlin::model {
namespace {

// White space is spelled by its property: PCRE2's \s also takes U+180E, which Unicode moved out of the spaces and which
// the published tokenizers do not count as one.
constexpr char kWords[] = R"( ?\p{L}+)";
constexpr char kWordsWithAnyLead[] = R"([^\r\n\p{L}\p{N}]?\p{L}+)";
constexpr char kOther[] = R"( ?[^\p{White_Space}\p{L}\p{N}]+)";
constexpr char kOtherWithNewlines[] = R"( ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*)";
constexpr char kBlankThenNewlines[] = R"(\p{White_Space}*[\r\n]+)";
// A run of spaces leaves its last one to the word that follows.
constexpr char kSpaces[] = R"(\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr char kContractions[] = R"('(?:[sdmt]|ll|ve|re))";
constexpr char kContractionsAnyCase[] = R"('(?i:[sdmt]|ll|ve|re))";

std::string Gpt2() { return absl::StrJoin({kContractions, kWords, R"( ?\p{N}+)", kOther, kSpaces}, "|"); }

// `digits`: how many digits stay together.
std::string Llama3(absl::string_view digits) {
  return absl::StrJoin(
      {absl::string_view(kContractionsAnyCase), absl::string_view(kWordsWithAnyLead), digits,
       absl::string_view(kOtherWithNewlines), absl::string_view(kBlankThenNewlines), absl::string_view(kSpaces)},
      "|");
}

const std::vector<PreTokenizerFamily>& Families() {
  static const auto& families = *new std::vector<PreTokenizerFamily>{
      {{"gpt-2"}, {Gpt2()}, /*ignore_merges=*/false, /*add_bos=*/false},
      {{"smollm"}, {R"(\p{N})", Gpt2()}, false, false},
      {{"llama-bpe", "llama3", "llama-v3"}, {Llama3(R"(\p{N}{1,3})")}, true, true},
      // The published tokenizer also composes its input (NFC) first; a GGUF's reference reader does not, and neither do
      // we.
      {{"qwen2"}, {Llama3(R"(\p{N})")}, false, false},
  };
  return families;
}

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// What a match writes to: one per thread, kept, so that a match allocates nothing.
class MatchState {
 public:
  MatchState()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 * 1024, 1024 * 1024, nullptr)) {
    CHECK(data_ != nullptr && context_ != nullptr) << "out of memory";
    // Without a JIT compiler there is no stack, and nothing to assign.
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, stack_);
    constexpr uint32_t kHeapLimitKib = 64 * 1024;
    pcre2_set_heap_limit(context_, kHeapLimitKib);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
  ~MatchState() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }

  pcre2_match_data* data() { return data_; }
  pcre2_match_context* context() { return context_; }

 private:
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_;
};

MatchState& ThreadMatchState() {
  thread_local MatchState state;
  return state;
}

}  // namespace

struct PreTokenizer::Expression {
  explicit Expression(pcre2_code* c) : code(c) {}
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;
  ~Expression() { pcre2_code_free(code); }

  // Appends the pieces of `text`: the matches and what lies between them.
  absl::Status Split(absl::string_view text, uint32_t match_limit, std::vector<absl::string_view>* pieces) const {
    MatchState& state = ThreadMatchState();
    pcre2_set_match_limit(state.context(), match_limit);
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    for (size_t at = 0; at < text.size();) {
      const int rc = pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, state.data(), state.context());
      if (rc == PCRE2_ERROR_NOMATCH) {
        pieces->push_back(text.substr(at));
        break;
      }
      if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
          rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        return absl::ResourceExhaustedError(absl::StrCat("pre-tokenizer: ", ErrorText(rc), " (match limit ",
                                                         match_limit, ") in a text of ", text.size(), " bytes"));
      }
      if (rc < 0) return absl::InternalError(absl::StrCat("pre-tokenizer: PCRE2: ", ErrorText(rc)));
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(state.data());
      CHECK_LT(ends[0], ends[1]) << "an expression matched the empty text";
      if (ends[0] > at) pieces->push_back(text.substr(at, ends[0] - at));
      pieces->push_back(text.substr(ends[0], ends[1] - ends[0]));
      at = ends[1];
    }
    return absl::OkStatus();
  }

  pcre2_code* code;
};

const PreTokenizerFamily* FindPreTokenizerFamily(absl::string_view name) {
  for (const PreTokenizerFamily& family : Families()) {
    for (const std::string& known : family.names) {
      if (known == name) return &family;
    }
  }
  return nullptr;
}

std::string KnownPreTokenizers() {
  std::vector<std::string> names;
  for (const PreTokenizerFamily& family : Families()) {
    names.insert(names.end(), family.names.begin(), family.names.end());
  }
  return absl::StrJoin(names, ", ");
}

PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<const PreTokenizer>> PreTokenizer::Create(const std::vector<std::string>& expressions,
                                                                         uint32_t match_limit) {
  auto result = absl::WrapUnique(new PreTokenizer);
  result->match_limit_ = match_limit;
  for (const std::string& expression : expressions) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                     PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    if (code == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("pre-tokenizer expression: ", ErrorText(error), " at offset ", offset, " of ", expression));
    }
    result->expressions_.push_back(std::make_unique<const Expression>(code));
    // A failure here (no JIT on this processor, or no executable memory allowed) costs speed alone: pcre2_match
    // interprets.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
  return std::unique_ptr<const PreTokenizer>(std::move(result));
}

absl::Status PreTokenizer::Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
  pieces->clear();
  if (text.empty()) return absl::OkStatus();
  pieces->push_back(text);
  std::vector<absl::string_view> coarser;
  for (const auto& expression : expressions_) {
    coarser.swap(*pieces);
    pieces->clear();
    for (const absl::string_view piece : coarser) RETURN_IF_ERROR(expression->Split(piece, match_limit_, pieces));
  }
  return absl::OkStatus();
}

}  // namespace dunlin::model
