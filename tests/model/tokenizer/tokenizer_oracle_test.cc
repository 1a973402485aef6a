// The merge loops against plain quadratic ones, written from the definition, on random vocabularies and texts.
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/tokenizer/bpe_merges.h"
#include "model/tokenizer/utf8.h"
#include "model/tokenizer/vocabulary.h"
#include "tests/model/tokenizer/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using Ids = std::vector<TokenId>;

TEST(BpeMergesTest, AnyPieceMergesAsTheDefinitionSays) {
  std::mt19937 random(11);
  for (int vocabulary = 0; vocabulary < 60; ++vocabulary) {
    // Three letters and random rules over whatever exists so far; a result may have more than one rule.
    BpeMerges merges;
    std::map<std::pair<TokenId, TokenId>, std::pair<int, TokenId>> rules;
    TokenId num_ids = 3;
    for (int rank = 0; rank < 30; ++rank) {
      const auto any = [&] { return static_cast<TokenId>(random() % static_cast<unsigned>(num_ids)); };
      const TokenId left = any(), right = any();
      const TokenId result = random() % 8 == 0 ? any() : num_ids++;
      merges.Add(left, right, result);
      rules.try_emplace({left, right}, rank, result);
    }
    for (int round = 0; round < 60; ++round) {
      Ids symbols(random() % (round % 2 == 0 ? 20 : 200));
      for (TokenId& id : symbols) id = static_cast<TokenId>(random() % 3);
      Ids want = symbols;
      while (true) {
        int best_rank = 1000;
        size_t best = 0;
        for (size_t i = 0; i + 1 < want.size(); ++i) {
          const auto it = rules.find({want[i], want[i + 1]});
          if (it != rules.end() && it->second.first < best_rank) best_rank = it->second.first, best = i;
        }
        if (best_rank == 1000) break;
        want[best] = rules.at({want[best], want[best + 1]}).second;
        want.erase(want.begin() + static_cast<ptrdiff_t>(best) + 1);
      }
      Ids got = {-7};  // what was there before stays
      merges.Apply(symbols, &got);
      want.insert(want.begin(), -7);
      ASSERT_EQ(got, want);
    }
  }
}

Ids SlowSpm(const Vocabulary& v, const std::string& text) {
  std::map<std::string, TokenId> pieces;
  for (size_t i = dunlin::testing::kSpmTool; i < v.tokens.size(); ++i) {
    pieces.try_emplace(v.tokens[i], static_cast<TokenId>(i));
  }
  std::vector<std::string> symbols;
  for (size_t at = 0; at < text.size(); at += symbols.back().size()) {
    symbols.push_back(text.substr(at, ScanUtf8(absl::string_view(text).substr(at)).length));
  }
  while (true) {
    const std::string* best_text = nullptr;
    size_t best = 0;
    float best_score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = pieces.find(symbols[i] + symbols[i + 1]);
      if (it == pieces.end()) continue;
      const float score = v.scores[static_cast<size_t>(it->second)];
      if (best_text == nullptr || score > best_score) best_text = &it->first, best = i, best_score = score;
    }
    if (best_text == nullptr) break;
    symbols[best] = *best_text;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const auto it = pieces.find(symbol);
    if (it != pieces.end()) {
      ids.push_back(it->second);
    } else {
      for (const char c : symbol) ids.push_back(dunlin::testing::kSpmFirstByte + static_cast<uint8_t>(c));
    }
  }
  return ids;
}

TEST(SpmTokenizerTest, AnyTextMergesAsTheDefinitionSays) {
  std::mt19937 random(12);
  const std::vector<std::string> letters = {"a", "b", "\xC3\xA9", "\xE4\xBD\xA0"};
  for (int round = 0; round < 60; ++round) {
    Vocabulary v = dunlin::testing::SmallSpmVocabulary();
    const size_t first_piece = dunlin::testing::kSpmTool + 1;
    v.tokens.resize(first_piece);
    v.types.resize(first_piece);
    v.scores.resize(first_piece);
    v.add_space_prefix = false;
    // Few distinct scores, of both signs, so that ties and the order across zero are met.
    for (int i = 0; i < 40; ++i) {
      std::string text;
      for (auto n = 1 + random() % 5; n > 0; --n) text += letters[random() % letters.size()];
      v.tokens.push_back(text);
      v.types.push_back(TokenType::kNormal);
      v.scores.push_back(static_cast<float>(static_cast<int>(random() % 7) - 3) * 0.5f);
    }
    ASSERT_OK_AND_ASSIGN(const auto tokenizer, CreateTokenizer(v));
    for (int t = 0; t < 40; ++t) {
      std::string text;
      for (auto n = random() % 60; n > 0; --n) text += letters[random() % letters.size()];
      ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer->Encode(text, {}));
      ASSERT_EQ(ids, SlowSpm(v, text)) << text;
    }
  }
}

}  // namespace
}  // namespace dunlin::model
