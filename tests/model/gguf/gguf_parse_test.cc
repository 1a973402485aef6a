// Every check of Gguf::Parse, each by a file that breaks just it.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::GgufBuilder;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr size_t kTensorCountAt = 8;
constexpr size_t kKeyCountAt = 16;

std::span<const uint8_t> Bytes(const std::string& s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }
absl::StatusOr<Gguf> Parse(const std::string& bytes) { return Gguf::Parse(Bytes(bytes)); }

template <typename T>
std::string Le(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

template <typename T>
std::string Patched(std::string bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
  return bytes;
}

const std::string kRow(32 * 4, '\1');  // one row of 32 f32

GgufBuilder Valid() {
  GgufBuilder b;
  b.String("general.architecture", "llama").U32("answer", 42);
  b.Tensor("a.weight", {32, 1}, 0, kRow).Tensor("b.weight", {32}, 0, kRow);
  return b;
}

// The bytes of one tensor entry whose offset field can be patched: the last 8 bytes of the entry.
size_t OffsetFieldOf(const std::string& bytes, const std::string& name, size_t num_dims) {
  return bytes.find(name) + name.size() + 4 + 8 * num_dims + 4;
}

TEST(GgufParse, ReadsEveryScalarType) {
  GgufBuilder b;
  b.Raw("u8", 0, Le<uint8_t>(200)).Raw("i8", 1, Le<int8_t>(-5)).Raw("u16", 2, Le<uint16_t>(60000));
  b.Raw("i16", 3, Le<int16_t>(-30000)).U32("u32", 4000000000u).I32("i32", -7).F32("f32", 0.1f);
  b.Bool("bool", true).String("string", "text").U64("u64", std::numeric_limits<uint64_t>::max());
  b.Raw("i64", 11, Le<int64_t>(std::numeric_limits<int64_t>::min())).F64("f64", 0.1);
  const std::string bytes = b.Build();
  ASSERT_OK_AND_ASSIGN(const Gguf g, Parse(bytes));
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(*g.GetInt("u8", kMin, kMax), 200);
  EXPECT_EQ(*g.GetInt("i8", kMin, kMax), -5);
  EXPECT_EQ(*g.GetInt("u16", kMin, kMax), 60000);
  EXPECT_EQ(*g.GetInt("i16", kMin, kMax), -30000);
  EXPECT_EQ(*g.GetInt("u32", kMin, kMax), 4000000000);
  EXPECT_EQ(*g.GetInt("i32", kMin, kMax), -7);
  EXPECT_EQ(*g.GetInt("i64", kMin, kMax), kMin);
  EXPECT_EQ(std::get<uint64_t>(g.Find("u64")->scalar), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(*g.GetFloat("f32"), static_cast<double>(0.1f));
  EXPECT_EQ(*g.GetFloat("f64"), 0.1);
  EXPECT_TRUE(*g.GetBool("bool"));
  EXPECT_EQ(*g.GetString("string"), "text");
  EXPECT_THAT(g.keys(),
              ElementsAre("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "u64", "i64", "f64"));
}

TEST(GgufParse, ReadsArraysOfStringsNumbersAndBools) {
  GgufBuilder b;
  b.Strings("s", {"", "a", "bc"}).I32s("i", {-1, 2}).F32s("f", {0.5f, -2.0f}).I32s("empty", {});
  b.Raw("bools", 9, Le<int32_t>(7) + Le<uint64_t>(2) + Le<uint8_t>(1) + Le<uint8_t>(0));
  b.Raw("u8s", 9, Le<int32_t>(0) + Le<uint64_t>(1) + Le<uint8_t>(255));
  const std::string bytes = b.Build();
  ASSERT_OK_AND_ASSIGN(const Gguf g, Parse(bytes));
  EXPECT_THAT(g.Find("s")->strings, ElementsAre("", "a", "bc"));
  EXPECT_THAT(g.Find("i")->integers, ElementsAre(-1, 2));
  EXPECT_THAT(g.Find("f")->floats, ElementsAre(0.5, -2.0));
  EXPECT_EQ(g.Find("empty")->array_size(), 0u);
  EXPECT_THAT(g.Find("bools")->integers, ElementsAre(1, 0));
  EXPECT_EQ(g.Find("bools")->element_type, GgufType::kBool);
  EXPECT_THAT(g.Find("u8s")->integers, ElementsAre(255));
}

TEST(GgufParse, FindsTensorsWithTheirShapeAndExactBytes) {
  GgufBuilder b;
  b.Tensor("m", {32, 3}, 8, std::string(3 * 34, 'x')).Tensor("scalar", {}, 0, "abcd").Tensor("v", {5}, 1, "0123456789");
  for (const uint32_t alignment : {1u, 8u, 32u, 4096u}) {
    const std::string bytes = b.Alignment(alignment).Build();
    ASSERT_OK_AND_ASSIGN(const Gguf g, Parse(bytes));
    EXPECT_EQ(g.alignment(), alignment);
    ASSERT_EQ(g.tensors().size(), 3u);
    const GgufTensor* m = g.FindTensor("m");
    ASSERT_NE(m, nullptr);
    EXPECT_EQ(m->cols(), 32);
    EXPECT_EQ(m->rows(), 3);
    EXPECT_EQ(m->type, kernels::DType::kQ8_0);
    EXPECT_EQ(std::string(m->data.begin(), m->data.end()), std::string(3 * 34, 'x'));
    const GgufTensor* v = g.FindTensor("v");
    EXPECT_EQ(std::string(v->data.begin(), v->data.end()), "0123456789");
    EXPECT_THAT(g.FindTensor("scalar")->dims, ElementsAre(1));
    EXPECT_EQ(g.FindTensor("nothing"), nullptr);
  }
}

TEST(GgufParse, AcceptsVersions2And3AndAVocabularyWithoutTensors) {
  for (const uint32_t version : {2u, 3u}) {
    const std::string bytes = Valid().Version(version).Build();
    ASSERT_OK_AND_ASSIGN(const Gguf g, Parse(bytes));
    EXPECT_EQ(g.version(), static_cast<int>(version));
  }
  GgufBuilder vocabulary;
  const std::string bytes = vocabulary.String("k", "v").Alignment(64).Build();
  EXPECT_OK(Parse(bytes));
}

TEST(GgufParse, GivesTheSameAnswerAtEveryAlignmentOfTheBytes) {
  const std::string bytes = Valid().Build();
  for (size_t shift = 0; shift < 8; ++shift) {
    const std::string shifted = std::string(shift, '!') + bytes;
    const absl::StatusOr<Gguf> g = Gguf::Parse(Bytes(shifted).subspan(shift));
    ASSERT_OK(g);
    EXPECT_EQ(g->tensors().size(), 2u);
  }
}

TEST(GgufParse, RefusesWhatIsNotGgufOrAnotherVersion) {
  const std::string valid = Valid().Build();
  EXPECT_THAT(Parse(""), StatusIs(kInvalid, HasSubstr("not a GGUF file")));
  EXPECT_THAT(Parse("GGU"), StatusIs(kInvalid, HasSubstr("not a GGUF file")));
  EXPECT_THAT(Parse("PK\3\4 and more"), StatusIs(kInvalid, HasSubstr("'PK\\x03\\x04'")));
  EXPECT_THAT(Parse(Patched<uint32_t>(valid, 4, 0)), StatusIs(kInvalid, HasSubstr("version is 0")));
  EXPECT_THAT(Parse(Patched<uint32_t>(valid, 4, 1)), StatusIs(kUnimplemented, HasSubstr("version is 1")));
  EXPECT_THAT(Parse(Patched<uint32_t>(valid, 4, 4)), StatusIs(kUnimplemented, HasSubstr("version is 4")));
  EXPECT_THAT(Parse(Patched<uint32_t>(valid, 4, 0x03000000)), StatusIs(kUnimplemented, HasSubstr("big-endian")));
}

TEST(GgufParse, RefusesCountsThatTheFileCannotHold) {
  const std::string valid = Valid().Build();
  for (const uint64_t count : {uint64_t{1} << 20, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    EXPECT_THAT(Parse(Patched(valid, kTensorCountAt, count)),
                StatusIs(kInvalid, AllOf(HasSubstr("tensor count"), HasSubstr(absl::StrCat(count)))));
    EXPECT_THAT(Parse(Patched(valid, kKeyCountAt, count)),
                StatusIs(kInvalid, AllOf(HasSubstr("key count"), HasSubstr(absl::StrCat(count)))));
  }
}

TEST(GgufParse, RefusesStringsThatAreTooLongOrRunPastTheEnd) {
  for (const uint64_t length : {uint64_t{1000}, uint64_t{1} << 30}) {
    const std::string bytes = GgufBuilder().Raw("key.long", 8, Le(length) + "short").Build();
    EXPECT_THAT(Parse(bytes), StatusIs(kInvalid, AllOf(HasSubstr("'key.long'"), HasSubstr("ends"))));
  }
  for (const uint64_t length : {(uint64_t{1} << 30) + 1, ~uint64_t{0}}) {
    const std::string bytes = GgufBuilder().Raw("key.long", 8, Le(length) + "short").Build();
    EXPECT_THAT(Parse(bytes), StatusIs(kInvalid, AllOf(HasSubstr("'key.long'"), HasSubstr(absl::StrCat(length)),
                                                       HasSubstr("at most"))));
  }
}

TEST(GgufParse, RefusesEmptyAndRepeatedKeys) {
  EXPECT_THAT(Parse(GgufBuilder().U32("", 1).U32("padding.key", 1).Build()),
              StatusIs(kInvalid, HasSubstr("key 0 has an empty name")));
  EXPECT_THAT(Parse(GgufBuilder().U32("twice", 1).U32("twice", 1).Build()),
              StatusIs(kInvalid, HasSubstr("key 'twice' occurs twice")));
}

TEST(GgufParse, RefusesUnknownValueTypesAndBoolBytes) {
  for (const int32_t type : {-1, 13, 1000}) {
    EXPECT_THAT(Parse(GgufBuilder().Raw("odd", type, "12345678").Build()),
                StatusIs(kInvalid, AllOf(HasSubstr("'odd'"), HasSubstr(absl::StrCat(type)))));
  }
  EXPECT_THAT(Parse(GgufBuilder().Raw("flag", 7, "\2").Build()),
              StatusIs(kInvalid, AllOf(HasSubstr("'flag'"), HasSubstr("bool byte 2"))));
}

TEST(GgufParse, RefusesNestedArraysBadElementTypesAndImpossibleCounts) {
  const auto array = [](int32_t element, uint64_t count, const std::string& payload) {
    return Parse(GgufBuilder().Raw("list", 9, Le(element) + Le(count) + payload).Build());
  };
  EXPECT_THAT(array(9, 1, Le<int32_t>(4) + Le<uint64_t>(0)),
              StatusIs(kInvalid, AllOf(HasSubstr("'list'"), HasSubstr("array of arrays"))));
  EXPECT_THAT(array(13, 1, "1234"), StatusIs(kInvalid, AllOf(HasSubstr("'list'"), HasSubstr("13"))));
  EXPECT_THAT(array(-1, 1, "1234"), StatusIs(kInvalid, HasSubstr("-1")));
  EXPECT_THAT(array(4, 1000, "1234"), StatusIs(kInvalid, AllOf(HasSubstr("'list'"), HasSubstr("1000 elements"))));
  EXPECT_THAT(array(8, 1000, "1234"), StatusIs(kInvalid, HasSubstr("1000 elements")));
  EXPECT_THAT(array(0, (uint64_t{1} << 30) + 1, "1"), StatusIs(kInvalid, HasSubstr("at most 1073741824")));
  EXPECT_THAT(array(12, ~uint64_t{0}, "1"), StatusIs(kInvalid, HasSubstr("at most")));
  EXPECT_THAT(array(10, 1, Le(~uint64_t{0})), StatusIs(kUnimplemented, HasSubstr("'list'")));
}

TEST(GgufParse, RefusesAlignmentsThatAreNoPowerOfTwo) {
  for (const uint32_t alignment : {0u, 3u, 48u}) {
    EXPECT_THAT(Parse(GgufBuilder().U32("general.alignment", alignment).Build()),
                StatusIs(kInvalid, AllOf(HasSubstr("'general.alignment'"), HasSubstr(absl::StrCat(alignment)))));
  }
  EXPECT_THAT(Parse(GgufBuilder().String("general.alignment", "32").Build()), StatusIs(kInvalid, HasSubstr("string")));
  // Huge alignments are legal but put the data section past the end.
  EXPECT_THAT(Parse(Valid().U32("general.alignment", 1u << 31).Build()), StatusIs(kInvalid, HasSubstr("data section")));
}

TEST(GgufParse, RefusesEmptyLongAndRepeatedTensorNames) {
  const std::string longest(63, 'n');
  EXPECT_OK(Parse(GgufBuilder().Tensor(longest, {32}, 0, kRow).Build()));
  EXPECT_THAT(Parse(GgufBuilder().Tensor(longest + "n", {32}, 0, kRow).Build()),
              StatusIs(kInvalid, AllOf(HasSubstr("64 bytes"), HasSubstr("63"))));
  EXPECT_THAT(Parse(GgufBuilder().Tensor("", {32}, 0, kRow).Build()),
              StatusIs(kInvalid, HasSubstr("tensor 0 has an empty name")));
  EXPECT_THAT(Parse(Valid().Tensor("a.weight", {32}, 0, kRow).Build()),
              StatusIs(kInvalid, HasSubstr("'a.weight' occurs twice")));
}

TEST(GgufParse, RefusesDimensionsThatAreTooManyNotPositiveOrOverflow) {
  const auto with_dims = [](const std::vector<int64_t>& dims) {
    return Parse(GgufBuilder().Tensor("t", dims, 0, kRow).Build());
  };
  EXPECT_OK(with_dims({4, 2, 2, 2}));
  EXPECT_THAT(with_dims({32, 1, 1, 1, 1}),
              StatusIs(kInvalid, AllOf(HasSubstr("tensor 't'"), HasSubstr("5 dimensions"))));
  EXPECT_THAT(with_dims({32, 0}), StatusIs(kInvalid, AllOf(HasSubstr("'t'"), HasSubstr("dimension 1 = 0"))));
  EXPECT_THAT(with_dims({-32}), StatusIs(kInvalid, HasSubstr("dimension 0 = -32")));
  const int64_t big = int64_t{1} << 32;
  EXPECT_THAT(with_dims({big, big}), StatusIs(kInvalid, HasSubstr("2^63-1 elements")));
  EXPECT_THAT(with_dims({big, 2, 2, big}), StatusIs(kInvalid, HasSubstr("2^63-1 elements")));
  EXPECT_THAT(with_dims({int64_t{1} << 62}), StatusIs(kInvalid, HasSubstr("2^63-1 bytes")));
  EXPECT_THAT(with_dims({int64_t{1} << 60}), StatusIs(kInvalid, HasSubstr("data section")));
}

TEST(GgufParse, RefusesTensorTypesByNameWhenTheyAreValidAndByIdWhenNot) {
  for (const int32_t id : {-1, 4, 5, 31, 33, 36, 38, 43, 1000}) {
    EXPECT_THAT(Parse(GgufBuilder().Tensor("t", {32}, id, kRow).Build()),
                StatusIs(kInvalid, AllOf(HasSubstr("'t'"), HasSubstr(absl::StrCat("type id ", id)))));
  }
  const std::pair<int32_t, const char*> unread[] = {{9, "Q8_1"},   {16, "IQ2_XXS"}, {28, "F64"}, {29, "IQ1_M"},
                                                    {34, "TQ1_0"}, {39, "MXFP4"},   {42, "Q2_0"}};
  for (const auto& [id, name] : unread) {
    EXPECT_THAT(Parse(GgufBuilder().Tensor("t", {32}, id, kRow).Build()),
                StatusIs(kUnimplemented, AllOf(HasSubstr("'t'"), HasSubstr(name))));
  }
}

TEST(GgufParse, RefusesRowsThatAreNotWholeBlocks) {
  EXPECT_THAT(Parse(GgufBuilder().Tensor("t", {33}, 2, kRow).Build()),
              StatusIs(kInvalid, AllOf(HasSubstr("'t'"), HasSubstr("rows of 33"), HasSubstr("multiple of 32"))));
  EXPECT_THAT(Parse(GgufBuilder().Tensor("t", {128, 2}, 12, kRow).Build()),
              StatusIs(kInvalid, AllOf(HasSubstr("Q4_K"), HasSubstr("multiple of 256"))));
}

TEST(GgufParse, RefusesOffsetsThatLeaveGapsOverlapOrLeaveTheFile) {
  const std::string valid = Valid().Build();
  const size_t first = OffsetFieldOf(valid, "a.weight", 2);
  const size_t second = OffsetFieldOf(valid, "b.weight", 1);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{96}, uint64_t{160}, ~uint64_t{0}}) {
    EXPECT_THAT(Parse(Patched(valid, second, offset)),
                StatusIs(kInvalid,
                         AllOf(HasSubstr("'b.weight'"), HasSubstr(absl::StrCat("offset ", offset)), HasSubstr("128"))));
  }
  EXPECT_THAT(Parse(Patched<uint64_t>(valid, first, 32)), StatusIs(kInvalid, HasSubstr("'a.weight'")));
  EXPECT_THAT(Parse(valid.substr(0, valid.size() - 1)),
              StatusIs(kInvalid, AllOf(HasSubstr("'b.weight'"), HasSubstr("data section"))));
}

TEST(GgufParse, RefusesEveryTruncationAndReadsPastNoEnd) {
  const std::string valid = Valid().Build();
  ASSERT_OK(Parse(valid));
  for (size_t size = 0; size < valid.size(); ++size) {
    const std::vector<uint8_t> copy(valid.begin(),
                                    valid.begin() + static_cast<ptrdiff_t>(size));  // exact, for the sanitizer
    const absl::StatusOr<Gguf> g = Gguf::Parse(copy);
    ASSERT_FALSE(g.ok()) << size;
    EXPECT_FALSE(g.status().message().empty());
  }
  EXPECT_OK(Parse(valid + "trailing bytes"));
}

TEST(GgufParse, EscapesAndCutsNamesFromTheFileInMessages) {
  const std::string evil = std::string("\x1b[2J", 4) + std::string(500, 'k');
  const absl::Status status = Parse(GgufBuilder().U32(evil, 1).U32(evil, 1).Build()).status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("\\x1b[2J"), HasSubstr("...'"), ::testing::Not(HasSubstr("\x1b"))));
  EXPECT_LT(status.message().size(), 200u);
}

TEST(GgufAccess, NamesTheKeyTheTypeAndTheLimits) {
  const std::string bytes = GgufBuilder().U32("n", 42).String("s", "x").U64("big", ~uint64_t{0}).F32("f", NAN).Build();
  ASSERT_OK_AND_ASSIGN(const Gguf g, Parse(bytes));
  EXPECT_THAT(g.GetInt("none", 0, 1), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'none'")));
  EXPECT_THAT(g.GetInt("n", 0, 41), StatusIs(kInvalid, AllOf(HasSubstr("'n' is 42"), HasSubstr("0 to 41"))));
  EXPECT_THAT(g.GetInt("n", 43, 100), StatusIs(kInvalid, HasSubstr("43 to 100")));
  EXPECT_THAT(g.GetInt("big", 0, std::numeric_limits<int64_t>::max()),
              StatusIs(kInvalid, HasSubstr("18446744073709551615")));
  EXPECT_THAT(g.GetInt("s", 0, 1), StatusIs(kInvalid, AllOf(HasSubstr("'s' has type string"), HasSubstr("integer"))));
  EXPECT_THAT(g.GetFloat("n"), StatusIs(kInvalid, HasSubstr("u32")));
  EXPECT_THAT(g.GetBool("n"), StatusIs(kInvalid, HasSubstr("bool is wanted")));
  EXPECT_THAT(g.GetString("n"), StatusIs(kInvalid, HasSubstr("string is wanted")));
  EXPECT_EQ(*g.GetIntOr("none", 7, 0, 1), 7);
  EXPECT_THAT(g.GetIntOr("s", 7, 0, 1), StatusIs(kInvalid, HasSubstr("'s'")));
  EXPECT_EQ(*g.GetFloatOr("none", 0.5), 0.5);
  EXPECT_TRUE(std::isnan(*g.GetFloat("f")));
  EXPECT_TRUE(*g.GetBoolOr("none", true));
  EXPECT_EQ(g.Find("none"), nullptr);
}

}  // namespace
}  // namespace dunlin::model
