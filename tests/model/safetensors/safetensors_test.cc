// Every check of SafeTensors::Parse, each by a file that breaks just it, and random damage.
#include "model/safetensors/safetensors.h"

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_mutation.h"
#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::SafeTensorsBuilder;
using dunlin::testing::SafeTensorsFile;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<SafeTensors> Parse(const std::string& bytes) {
  return SafeTensors::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

TEST(SafeTensors, ReadsTensorsMetadataScalarsAndEmptyOnes) {
  const std::string bytes = SafeTensorsFile(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[6,10]},)"
      R"("a":{"shape":[3,1],"data_offsets":[0,6],"dtype":"BF16"},"e":{"dtype":"I64","shape":[0,5],"data_offsets":[10,10]}}  )",
      "abcdefWXYZ");
  ASSERT_OK_AND_ASSIGN(const SafeTensors file, Parse(bytes));
  ASSERT_EQ(file.tensors().size(), 3u);
  const SafeTensor* a = file.Find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, "BF16");
  EXPECT_THAT(a->shape, ElementsAre(3, 1));
  EXPECT_EQ(std::string(a->data.begin(), a->data.end()), "abcdef");
  const SafeTensor* b = file.Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->num_elements(), 1);
  EXPECT_EQ(std::string(b->data.begin(), b->data.end()), "WXYZ");
  ASSERT_NE(file.Find("e"), nullptr);
  EXPECT_EQ(file.Find("e")->num_elements(), 0);
  EXPECT_EQ(file.Find("format"), nullptr);
  EXPECT_OK(Parse(SafeTensorsFile("{}", "")).status());
}

TEST(SafeTensors, RefusesAHeaderThatIsNotThere) {
  EXPECT_THAT(Parse("1234567"), StatusIs(kInvalid, HasSubstr("7 bytes")));
  std::string longer = SafeTensorsFile("{}", "");
  longer[0] = 3;
  EXPECT_THAT(Parse(longer), StatusIs(kInvalid, HasSubstr("3 bytes")));
  longer[7] = '\x7F';
  EXPECT_THAT(Parse(longer), StatusIs(kInvalid, HasSubstr("header")));
}

TEST(SafeTensors, RefusesHeadersOfAnotherForm) {
  const auto refuse = [](const std::string& header, const std::string& why) {
    EXPECT_THAT(Parse(SafeTensorsFile(header, "12")), StatusIs(kInvalid, HasSubstr(why))) << header;
  };
  refuse("[]", "an array does not belong");
  refuse("5", "a number does not belong");
  refuse("{", "no JSON from byte");
  refuse("{} x", "no JSON from byte");
  refuse(R"({"a":1})", "tensor 'a': a number");
  refuse(R"({"a":{"dtype":"I16","shape":[1],"data_offsets":[0,2],"x":1}})", "the unknown field 'x'");
  refuse(R"({"a":{"dtype":"I16","dtype":"I16","shape":[1],"data_offsets":[0,2]}})", "dtype twice");
  refuse(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,2]}})", "a number does not belong");
  refuse(R"({"a":{"dtype":"I16","shape":[-1],"data_offsets":[0,2]}})", "a negative number");
  refuse(R"({"a":{"dtype":"I16","shape":[1.0],"data_offsets":[0,2]}})", "a fraction");
  refuse(R"({"a":{"dtype":"I16","shape":[[1]],"data_offsets":[0,2]}})", "an array does not belong");
  refuse(R"({"a":{"dtype":"I16","shape":[1],"data_offsets":[0]}})", "1 of 2 data_offsets");
  refuse(R"({"a":{"dtype":"I16","shape":[1],"data_offsets":[0,1,2]}})", "a number does not belong");
  refuse(R"({"a":{"dtype":"I16","shape":[1]}})", "lacks dtype, shape or data_offsets");
  refuse(R"({"a":{"dtype":"I16","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,2]}})", "more than 8 dimensions");
  refuse(R"({"__metadata__":{"a":{}}})", "an object does not belong");
  refuse(R"({"__metadata__":{},"__metadata__":{}})", "__metadata__ occurs twice");
  refuse(std::string(100000, '['), "an array does not belong");
}

TEST(SafeTensors, RefusesTensorsThatDoNotTileTheData) {
  const auto refuse = [](const std::string& header, const std::string& data, const std::string& why) {
    EXPECT_THAT(Parse(SafeTensorsFile(header, data)), StatusIs(kInvalid, HasSubstr(why))) << header;
  };
  const std::string a = R"({"a":{"dtype":"I16","shape":[1],"data_offsets":[)";
  refuse(a + "0,3]}}", "123", "2 bytes from 0 are wanted");
  refuse(a + "1,3]}}", "123", "2 bytes from 0 are wanted");
  refuse(a + "2,0]}}", "12", "2 bytes from 0 are wanted");
  refuse(a + "0,2]}}", "1", "ends at 2, but the data has 1");
  refuse(a + "0,2]}}", "123", "the tensors end at 2, but the data has 3");
  refuse(a + "0,18446744073709551615]}}", "12", "2 bytes from 0 are wanted");
  refuse(a + R"(0,2]},"b":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}})", "12", "2 bytes from 2 are wanted");
  refuse(a + R"(0,2]},"a":{"dtype":"I16","shape":[1],"data_offsets":[2,4]}})", "1234", "tensor 'a' occurs twice");
  refuse(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,2]}})", "12",
         "more than 2^63-1 bytes");
  refuse(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,2]}})", "12", "a dimension of");
}

TEST(SafeTensors, ADtypeThatIsNotKnownIsUnimplemented) {
  EXPECT_THAT(Parse(SafeTensorsBuilder().Tensor("a", "F4", {2}, "1").Build()),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("'a'"), HasSubstr("'F4'"))));
}

TEST(SafeTensors, DamageIsRefusedOrHarmless) {
  const std::string text = SafeTensorsBuilder()
                               .Tensor("model.norm.weight", "F32", {3}, std::string(12, 'x'))
                               .Tensor("lm_head.weight", "BF16", {4, 3}, std::string(24, 'y'))
                               .Build();
  const std::vector<uint8_t> seed(text.begin(), text.end());
  constexpr uint64_t kSeed = 5;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 rng(kSeed);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::vector<uint8_t> bytes = testing::Mutated(rng, seed, text.size() - 36);
    const absl::StatusOr<SafeTensors> file = SafeTensors::Parse(bytes);
    if (!file.ok()) continue;
    ++accepted;
    size_t total = 0;
    for (const SafeTensor& t : file->tensors()) {
      total += t.data.size();
      if (!t.data.empty()) {
        ASSERT_TRUE(t.data.data() >= bytes.data() && t.data.data() + t.data.size() <= bytes.data() + bytes.size());
      }
    }
    ASSERT_LE(total, bytes.size());
  }
  EXPECT_GT(accepted, 0);  // damage to the data alone, or to names
}

}  // namespace
}  // namespace dunlin::model
