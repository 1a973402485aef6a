// Every kind of damage to a record must be told, and an undamaged one must come back bit for bit.
#include "worker/runners/swap_arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"
#include "worker/runners/crc32c.h"

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr uint64_t kPageBytes = 1000;  // no multiple of anything
using Page = std::vector<uint8_t>;

Page RandomPage(uint64_t seed) {
  std::mt19937_64 random(seed);
  Page page(kPageBytes);
  for (uint8_t& b : page) b = static_cast<uint8_t>(random());
  return page;
}

// The definition, bit by bit.
uint32_t NaiveCrc32c(std::span<const uint8_t> bytes) {
  uint32_t crc = ~0u;
  for (const uint8_t b : bytes) {
    crc ^= b;
    for (int i = 0; i < 8; ++i) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
  }
  return ~crc;
}

TEST(Crc32c, IsTheCastagnoliChecksum) {
  const std::string digits = "123456789";
  const std::span text(reinterpret_cast<const uint8_t*>(digits.data()), digits.size());
  EXPECT_EQ(Crc32c(text), 0xE3069283u) << "the published check value";
  const Page zeros(32, 0);
  EXPECT_EQ(Crc32c(zeros), 0x8A9136AAu) << "RFC 3720 B.4";
  for (size_t n = 0; n < 70; ++n) {
    const Page page = RandomPage(n);
    const std::span<const uint8_t> bytes = std::span(page).first(n);
    EXPECT_EQ(Crc32c(bytes), NaiveCrc32c(bytes)) << n;
    EXPECT_EQ(Crc32cPortable(bytes), NaiveCrc32c(bytes)) << n;
  }
}

class SwapArenaTest : public ::testing::TestWithParam<bool> {
 protected:
  SwapArenaTest() { arena_ = Make(7); }

  std::string directory() const { return GetParam() ? ::testing::TempDir() : ""; }
  std::unique_ptr<SwapArena> Make(uint64_t layout_id) {
    auto arena = SwapArena::Create({kPageBytes, 5, layout_id, directory()});
    EXPECT_TRUE(arena.ok()) << arena.status();
    return *std::move(arena);
  }
  absl::Status Load(int32_t slot) { return arena_->Load(slot, page_); }

  std::unique_ptr<SwapArena> arena_;
  Page page_ = Page(kPageBytes);
};
INSTANTIATE_TEST_SUITE_P(Places, SwapArenaTest, ::testing::Bool(),
                         [](const auto& place) { return place.param ? "File" : "Memory"; });

TEST_P(SwapArenaTest, PagesComeBackBitForBitInAnyOrder) {
  for (int32_t slot = 0; slot < 5; ++slot) ASSERT_OK(arena_->Save(slot, RandomPage(static_cast<uint64_t>(slot))));
  for (const int32_t slot : {3, 0, 4, 4, 1, 2}) {
    ASSERT_OK(Load(slot));
    EXPECT_EQ(page_, RandomPage(static_cast<uint64_t>(slot))) << slot;
  }
  ASSERT_OK(arena_->Save(3, RandomPage(33)));
  ASSERT_OK(Load(3));
  EXPECT_EQ(page_, RandomPage(33));
  ASSERT_OK(Load(2));
  EXPECT_EQ(page_, RandomPage(2));
}

TEST_P(SwapArenaTest, EveryFlippedBitIsFound) {
  ASSERT_OK(arena_->Save(2, RandomPage(1)));
  const uint64_t start = 2 * arena_->TEST_record_bytes();
  for (uint64_t byte = 0; byte < SwapArena::kHeaderBytes + kPageBytes; ++byte) {
    const auto mask = static_cast<uint8_t>(1u << (byte % 8));
    uint8_t b;
    ASSERT_OK(arena_->TEST_ReadRaw(start + byte, {&b, 1}));
    b ^= mask;
    ASSERT_OK(arena_->TEST_WriteRaw(start + byte, {&b, 1}));
    EXPECT_THAT(Load(2), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("swap slot 2"))) << "byte " << byte;
    b ^= mask;
    ASSERT_OK(arena_->TEST_WriteRaw(start + byte, {&b, 1}));
  }
  ASSERT_OK(Load(2));
}

TEST_P(SwapArenaTest, ARecordInTheWrongPlaceOrOfAnEarlierTimeIsFound) {
  std::vector<uint8_t> record(arena_->TEST_record_bytes());
  ASSERT_OK(arena_->Save(0, RandomPage(1)));
  ASSERT_OK(arena_->Save(1, RandomPage(2)));
  ASSERT_OK(arena_->TEST_ReadRaw(0, record));
  ASSERT_OK(arena_->TEST_WriteRaw(record.size(), record));
  EXPECT_THAT(Load(1), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another slot")));
  ASSERT_OK(arena_->Save(0, RandomPage(3)));
  ASSERT_OK(arena_->TEST_WriteRaw(0, record));
  EXPECT_THAT(Load(0), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("older")));
}

TEST_P(SwapArenaTest, ARecordOfAnotherLayoutIsFound) {
  const std::unique_ptr<SwapArena> other = Make(8);
  std::vector<uint8_t> record(arena_->TEST_record_bytes());
  ASSERT_OK(other->Save(0, RandomPage(1)));
  ASSERT_OK(arena_->Save(0, RandomPage(1)));
  ASSERT_OK(other->TEST_ReadRaw(0, record));
  ASSERT_OK(arena_->TEST_WriteRaw(0, record));
  EXPECT_THAT(Load(0), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another page layout")));
}

TEST_P(SwapArenaTest, WhatIsNotThereIsSaid) {
  EXPECT_THAT(Load(0), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("holds nothing")));
  EXPECT_THAT(Load(5), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("slot 5 of 5")));
  EXPECT_THAT(Load(-1), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("slot -1")));
  EXPECT_THAT(arena_->Save(5, page_), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("slot 5 of 5")));
  EXPECT_THAT(arena_->Save(0, Page(10)), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("10 bytes, not 1000")));
}

TEST(SwapFile, AFileThatLostItsEndIsAnErrorNotASignal) {
  auto made = SwapArena::Create({kPageBytes, 4, 7, ::testing::TempDir()});
  ASSERT_TRUE(made.ok()) << made.status();
  SwapArena& arena = **made;
  Page page(kPageBytes);
  for (int32_t slot = 0; slot < 4; ++slot) ASSERT_OK(arena.Save(slot, RandomPage(1)));
  ASSERT_EQ(ftruncate(arena.TEST_file(), static_cast<off_t>(3 * arena.TEST_record_bytes() + 100)), 0);
  EXPECT_THAT(arena.Load(3, page), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("it ends there")));
  ASSERT_OK(arena.Load(2, page));
  ASSERT_OK(arena.Save(3, RandomPage(2)));
  ASSERT_OK(arena.Load(3, page));
}

TEST(SwapFile, LeavesNothingInItsDirectoryAndNamesOneThatCannotHoldIt) {
  const std::filesystem::path directory = std::filesystem::path(::testing::TempDir()) / "swap_arena_test_empty";
  std::filesystem::create_directory(directory);
  {
    auto made = SwapArena::Create({kPageBytes, 4, 7, directory.string()});
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_TRUE(std::filesystem::is_empty(directory));
  }
  std::filesystem::remove(directory);
  EXPECT_THAT(SwapArena::Create({kPageBytes, 4, 7, directory.string()}).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(directory.string())));
  EXPECT_THAT(SwapArena::Create({kPageBytes, 0, 7, ""}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 records")));
}

TEST(SwapArena, CountsTheRecordsThatFit) {
  EXPECT_EQ(SwapArena::SlotsIn(0, 1024), 0);
  EXPECT_EQ(SwapArena::SlotsIn(1087, 1024), 0);
  EXPECT_EQ(SwapArena::SlotsIn(1088, 1024), 1);
  EXPECT_EQ(SwapArena::SlotsIn(10880, 1024), 10);
}

}  // namespace
}  // namespace dunlin::worker
