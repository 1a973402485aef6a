#include "gateway/text/stop_matcher.h"

#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::gateway {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome Feed(const std::vector<std::string>& stops, bool include, const std::vector<std::string>& chunks) {
  StopMatcher matcher(stops, include);
  Outcome outcome;
  for (const std::string& chunk : chunks) {
    outcome.stop = matcher.Append(chunk, &outcome.text);
    if (outcome.stop.has_value()) return outcome;
  }
  matcher.Finish(&outcome.text);
  return outcome;
}

// The definition, on the whole text: the first byte at which any stop string is complete; then the longest of them.
Outcome Naive(const std::vector<std::string>& stops, bool include, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (!best.has_value() || stop.size() > stops[*best].size()) best = i;
    }
    if (best.has_value()) return {text.substr(0, include ? end : end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

std::vector<std::string> CutRandomly(const std::string& text, std::mt19937* rng) {
  std::vector<std::string> chunks;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t length = std::uniform_int_distribution<size_t>(1, 5)(*rng);
    chunks.push_back(text.substr(begin, length));
    begin += length;
  }
  return chunks;
}

TEST(StopMatcher, LetsEverythingThroughWithoutStopStrings) {
  EXPECT_EQ(Feed({}, false, {"a", "", "b"}), (Outcome{"ab", std::nullopt}));
}

TEST(StopMatcher, FindsAStopStringAcrossPieces) {
  EXPECT_EQ(Feed({"</s>"}, false, {"end<", "/", "s", ">tail"}), (Outcome{"end", 0}));
  EXPECT_EQ(Feed({"</s>"}, true, {"end<", "/", "s", ">tail"}), (Outcome{"end</s>", 0}));
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBecomeAStopString) {
  StopMatcher matcher({"abab"}, false);
  std::string out;
  EXPECT_FALSE(matcher.Append("xaba", &out).has_value());
  EXPECT_EQ(out, "x");
  EXPECT_EQ(matcher.held_bytes(), 3u);
  EXPECT_FALSE(matcher.Append("a", &out).has_value());  // "abaa": only the last a can still begin a stop
  EXPECT_EQ(out, "xaba");
  matcher.Finish(&out);
  EXPECT_EQ(out, "xabaa");
  EXPECT_EQ(matcher.held_bytes(), 0u);
}

TEST(StopMatcher, TheMatchThatCompletesFirstWins) {
  EXPECT_EQ(Feed({"bcde", "cd"}, false, {"abcde"}), (Outcome{"ab", 1}));
  EXPECT_EQ(Feed({"cd", "bcd"}, false, {"abcd"}), (Outcome{"a", 1}));  // same byte: the longest
}

TEST(StopMatcher, AgreesWithANaiveSearchHoweverTheTextIsCut) {
  std::mt19937 rng(20240117);
  for (int round = 0; round < 20000; ++round) {
    const auto random_text = [&](size_t max_length) {
      std::string text(std::uniform_int_distribution<size_t>(1, max_length)(rng), 'a');
      for (char& c : text) c = static_cast<char>('a' + std::uniform_int_distribution<int>(0, 2)(rng));
      return text;
    };
    std::vector<std::string> stops(std::uniform_int_distribution<size_t>(1, 4)(rng));
    for (std::string& stop : stops) stop = random_text(6);
    const std::string text = random_text(30);
    const bool include = round % 2 == 0;
    const Outcome want = Naive(stops, include, text);
    const Outcome got = Feed(stops, include, CutRandomly(text, &rng));
    ASSERT_EQ(got.text, want.text) << text;
    ASSERT_EQ(got.stop.has_value(), want.stop.has_value()) << text;
    // Two equal stop strings are the same match.
    if (got.stop.has_value()) {
      ASSERT_EQ(stops[*got.stop], stops[*want.stop]) << text;
    }
  }
}

}  // namespace
}  // namespace dunlin::gateway
