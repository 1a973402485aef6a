// StreamDecoder against an independent decoder, written after the WHATWG Encoding standard's state machine.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "model/tokenizer/vocabulary.h"
#include "tests/model/tokenizer/small_vocabulary.h"

namespace dunlin::model {
namespace {

using dunlin::testing::kBpeEnd;
using dunlin::testing::kBpeStart;
using dunlin::testing::SmallBpeVocabulary;
using dunlin::testing::SmallSpmVocabulary;

// "UTF-8 decoder" of the WHATWG Encoding standard, replacement mode.
std::string LossyDecode(const std::string& bytes, bool* lossy) {
  std::string out, seen;
  int needed = 0;
  uint8_t lower = 0x80, upper = 0xBF;
  *lossy = false;
  const auto replace = [&] {
    out += "\xEF\xBF\xBD";
    *lossy = true;
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (needed == 0) {
      seen = bytes[i];
      if (byte <= 0x7F) {
        out += bytes[i];
      } else if (byte >= 0xC2 && byte <= 0xDF) {
        needed = 1;
      } else if (byte >= 0xE0 && byte <= 0xEF) {
        if (byte == 0xE0) lower = 0xA0;
        if (byte == 0xED) upper = 0x9F;
        needed = 2;
      } else if (byte >= 0xF0 && byte <= 0xF4) {
        if (byte == 0xF0) lower = 0x90;
        if (byte == 0xF4) upper = 0x8F;
        needed = 3;
      } else {
        replace();
      }
      continue;
    }
    if (byte < lower || byte > upper) {
      needed = 0;
      lower = 0x80, upper = 0xBF;
      replace();
      --i;  // the byte is looked at again as a first one
      continue;
    }
    lower = 0x80, upper = 0xBF;
    seen += bytes[i];
    if (--needed == 0) out += seen;
  }
  if (needed != 0) replace();
  return out;
}

// A vocabulary whose tokens are exactly the 256 bytes in order of value.
std::unique_ptr<const Tokenizer> ByteTokenizer() {
  auto made = CreateTokenizer(SmallBpeVocabulary("gpt-2"));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// Streams `ids` and compares with the oracle; every chunk must be valid UTF-8 by itself.
void ExpectStreamsLikeOracle(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special) {
  StreamDecoder decoder(&tokenizer, skip_special);
  std::string bytes, streamed;
  for (const TokenId id : ids) {
    absl::StrAppend(&bytes, tokenizer.TokenBytes(id, !skip_special));
    std::string chunk;
    decoder.Append(id, &chunk);
    ASSERT_EQ(FindInvalidUtf8(chunk), absl::string_view::npos);
    ASSERT_LE(decoder.pending_bytes(), 3u);
    streamed += chunk;
  }
  std::string rest;
  const bool lossy = decoder.Finish(&rest);
  streamed += rest;
  if (tokenizer.strips_leading_space() && !bytes.empty() && bytes[0] == ' ') bytes.erase(0, 1);
  bool want_lossy = false;
  ASSERT_EQ(streamed, LossyDecode(bytes, &want_lossy));
  ASSERT_EQ(lossy, want_lossy);
}

TEST(StreamDecoderTest, RandomTokensStreamToTheLossyDecodingOfTheirBytes) {
  const auto bpe = ByteTokenizer();
  auto spm = CreateTokenizer(SmallSpmVocabulary());
  ASSERT_TRUE(spm.ok()) << spm.status();
  std::mt19937 random(1);
  for (const Tokenizer* tokenizer : {bpe.get(), spm->get()}) {
    for (int round = 0; round < 4000; ++round) {
      std::vector<TokenId> ids(random() % 24);
      for (TokenId& id : ids) id = static_cast<TokenId>(random() % static_cast<unsigned>(tokenizer->vocab_size()));
      ASSERT_NO_FATAL_FAILURE(ExpectStreamsLikeOracle(*tokenizer, ids, round % 2 == 0));
    }
  }
}

TEST(StreamDecoderTest, AllShortSequencesOfTelltaleBytesDecodeLikeTheOracle) {
  const auto tokenizer = ByteTokenizer();
  const std::vector<TokenId> telltale = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
                                         0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
  for (const TokenId a : telltale) {
    for (const TokenId b : telltale) {
      for (const TokenId c : telltale) {
        for (const TokenId d : {0x41, 0x80, 0xBF, 0xC2, 0xF0}) {
          ASSERT_NO_FATAL_FAILURE(ExpectStreamsLikeOracle(*tokenizer, {a, b, c, d}, true));
        }
      }
    }
  }
}

TEST(StreamDecoderTest, ACodePointComesOutWithItsLastByte) {
  const auto tokenizer = ByteTokenizer();
  StreamDecoder decoder(tokenizer.get(), true);
  std::string out;
  for (const TokenId id : {0xF0, 0x9F, 0x98}) {
    decoder.Append(id, &out);
    EXPECT_EQ(out, "");
  }
  EXPECT_EQ(decoder.pending_bytes(), 3u);
  decoder.Append(0x80, &out);
  EXPECT_EQ(out, "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder.pending_bytes(), 0u);
  EXPECT_FALSE(decoder.Finish(&out));
}

TEST(StreamDecoderTest, BytesThatCanNeverBecomeACodePointAreReplacedAtOnce) {
  const auto tokenizer = ByteTokenizer();
  StreamDecoder decoder(tokenizer.get(), true);
  std::string out;
  decoder.Append(0xFF, &out);
  EXPECT_EQ(out, "\xEF\xBF\xBD");
  decoder.Append(0xE2, &out);
  decoder.Append('a', &out);
  EXPECT_EQ(out,
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a");
  decoder.Append(0xE2, &out);
  decoder.Append(0x96, &out);
  EXPECT_TRUE(decoder.Finish(&out));
  EXPECT_EQ(out,
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a\xEF\xBF\xBD");
}

TEST(StreamDecoderTest, ControlTokensGiveTextOnlyWhenNotSkipped) {
  const auto tokenizer = ByteTokenizer();
  for (const bool skip : {true, false}) {
    StreamDecoder decoder(tokenizer.get(), skip);
    std::string out;
    for (const TokenId id : {kBpeStart, TokenId{'x'}, kBpeEnd}) decoder.Append(id, &out);
    EXPECT_FALSE(decoder.Finish(&out));
    EXPECT_EQ(out, skip ? "x" : "<|start|>x<|im_end|>");
  }
}

TEST(StreamDecoderTest, SpmDropsOneLeadingSpaceOfTheTextAlsoAfterASkippedBos) {
  const Vocabulary vocabulary = SmallSpmVocabulary();
  const auto made = CreateTokenizer(vocabulary);
  ASSERT_TRUE(made.ok()) << made.status();
  const TokenId hello = dunlin::testing::IdOf(vocabulary, "\xE2\x96\x81hello");
  const TokenId two_spaces = dunlin::testing::IdOf(vocabulary, "\xE2\x96\x81\xE2\x96\x81");
  ASSERT_GE(hello, 0);
  ASSERT_GE(two_spaces, 0);
  const auto decode = [&](const std::vector<TokenId>& ids, bool skip) {
    StreamDecoder decoder(made->get(), skip);
    std::string out;
    for (const TokenId id : ids) decoder.Append(id, &out);
    decoder.Finish(&out);
    return out;
  };
  EXPECT_EQ(decode({hello, hello}, true), "hello hello");
  EXPECT_EQ(decode({1, hello}, true), "hello");
  EXPECT_EQ(decode({1, hello}, false), "<s> hello");
  EXPECT_EQ(decode({two_spaces, two_spaces}, true), "   ");
}

}  // namespace
}  // namespace dunlin::model
