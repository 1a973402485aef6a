// What DeviceBatchBuffer puts on the device, and where.
#include "kernels/cuda/device_batch.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/device_fixture.h"

namespace dunlin::kernels::cuda::testing {
namespace {

class DeviceBatchTest : public DeviceTest {};

TEST_F(DeviceBatchTest, ArraysArriveAtTheBucketsAddresses) {
  DeviceBatchBuffer buffer(device_, {.largest = {16, 4, 16}, .pages_per_sequence = 3, .page_tokens = 16});
  ASSERT_TRUE(buffer.ok());
  const std::vector<int32_t> tokens = {7, 8, 9, 5, 6}, positions = {30, 31, 32, 0, 1}, outputs = {2, 4};
  const std::vector<int32_t> first_pages = {4, 9, 2}, second_pages = {11};
  const std::vector<SequenceSlice> sequences = {{0, 3, 30, first_pages.data()}, {3, 2, 0, second_pages.data()}};
  const BatchView view{5, tokens.data(), positions.data(), sequences};
  const DeviceBatch batch = buffer.Upload(view, outputs, {}, {8, 4, 8});
  device_->Synchronize();
  EXPECT_EQ(batch.max_rows, 8);
  EXPECT_EQ(batch.max_sequences, 4);
  EXPECT_EQ(batch.max_outputs, 8);
  const BatchCounts counts = Download(batch.counts, 1)[0];
  EXPECT_EQ(counts.num_rows, 5);
  EXPECT_EQ(counts.num_sequences, 2);
  EXPECT_EQ(counts.num_outputs, 2);
  EXPECT_EQ(Download(batch.token_ids, 5), tokens);
  EXPECT_EQ(Download(batch.from_previous, 5), std::vector<int32_t>(5, -1));
  EXPECT_EQ(Download(batch.positions, 5), positions);
  EXPECT_EQ(Download(batch.row_sequence, 5), (std::vector<int32_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(Download(batch.output_rows, 2), outputs);
  EXPECT_EQ(Download(batch.pages, 4), (std::vector<int32_t>{4, 9, 2, 11}));
  const std::vector<DeviceSequence> on_device = Download(batch.sequences, 2);
  EXPECT_EQ(on_device[0].first_row, 0);
  EXPECT_EQ(on_device[0].num_rows, 3);
  EXPECT_EQ(on_device[0].context_tokens, 30);
  EXPECT_EQ(on_device[0].first_page, 0);
  EXPECT_EQ(on_device[1].first_row, 3);
  EXPECT_EQ(on_device[1].num_rows, 2);
  EXPECT_EQ(on_device[1].first_page, 3);

  // Another batch of that bucket lies where the first one did; a full one of the largest has room.
  const std::vector<int32_t> from_previous = {-1, 4};
  const BatchView shorter{2, tokens.data(), positions.data() + 3, {sequences.data() + 1, 0}};
  const DeviceBatch again = buffer.Upload(shorter, {}, from_previous, {8, 4, 8});
  EXPECT_EQ(again.token_ids, batch.token_ids);
  EXPECT_EQ(Download(again.from_previous, 2), from_previous);
  EXPECT_EQ(again.pages, batch.pages);
  EXPECT_EQ(again.output_rows, batch.output_rows);
  const std::vector<int32_t> many(16, 1), all_pages = {1, 2, 3};
  std::vector<SequenceSlice> full;
  for (int i = 0; i < 4; ++i) full.push_back({4 * i, 4, 44, all_pages.data()});
  const DeviceBatch largest = buffer.Upload({16, many.data(), many.data(), full}, many, {}, {16, 4, 16});
  device_->Synchronize();
  EXPECT_EQ(Download(largest.pages, 12), (std::vector<int32_t>{1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3}));
}

}  // namespace
}  // namespace dunlin::kernels::cuda::testing
