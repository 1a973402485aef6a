#include "worker/scheduler/step_batch.h"

#include <gtest/gtest.h>

#include <vector>

namespace dunlin::worker {
namespace {

using V = std::vector<int32_t>;

kernels::SampleParams WithSeed(uint64_t seed) {
  kernels::SampleParams p;
  p.seed = seed;
  return p;
}

TEST(StepBatchBuilder, LaysSequencesOutOneAfterAnother) {
  StepBatchBuilder builder(16, 4, 4);
  const V first{3, 1, 2, 9}, second{7};
  for (int repeat = 0; repeat < 2; ++repeat) {
    builder.Clear();
    builder.AddSequence(V{10, 11, 12}, 6, first, true);  // positions 6…8 need three pages of four
    builder.AddOutput(0, WithSeed(1));
    builder.AddOutput(2, WithSeed(2));
    builder.AddSequence(V{20}, 3, second, false);
    builder.AddOutput(0, WithSeed(3));
    const StepBatch& b = builder.Finish();
    EXPECT_EQ(b.token_ids, (V{10, 11, 12, 20}));
    EXPECT_EQ(b.positions, (V{6, 7, 8, 3}));
    EXPECT_EQ(b.output_rows, (V{0, 2, 3}));
    EXPECT_EQ(b.num_prefill_rows, 3);
    ASSERT_EQ(b.sequences.size(), 2u);
    EXPECT_EQ(b.sequences[0].first_row, 0);
    EXPECT_EQ(b.sequences[0].num_rows, 3);
    EXPECT_EQ(b.sequences[0].context_tokens, 6);
    EXPECT_EQ(b.sequences[0].pages, first.data());
    EXPECT_EQ(b.sequences[1].first_row, 3);
    EXPECT_EQ(b.sequences[1].pages, second.data());
    ASSERT_EQ(b.sample_params.size(), 3u);
    EXPECT_EQ(b.sample_params[2].seed, 3u);
  }
}

TEST(StepBatchBuilder, ADraftFollowsItsSequencesOwnRows) {
  StepBatchBuilder builder(16, 4, 4);
  const V first{3, 1, 2}, second{7};
  builder.AddSequence(V{10}, 6, first, false);
  builder.AddDraft(V{11, 12}, first);  // positions 7 and 8: a third page
  for (int32_t i = 0; i < 3; ++i) builder.AddOutput(i, WithSeed(static_cast<uint64_t>(i)));
  builder.AddSequence(V{20}, 3, second, false);
  builder.AddOutput(0, WithSeed(3));
  const StepBatch& b = builder.Finish();
  EXPECT_EQ(b.token_ids, (V{10, 11, 12, 20}));
  EXPECT_EQ(b.positions, (V{6, 7, 8, 3}));
  EXPECT_EQ(b.output_rows, (V{0, 1, 2, 3}));
  EXPECT_EQ(b.num_prefill_rows, 0);
  EXPECT_EQ(b.sequences[0].num_rows, 3);
  EXPECT_EQ(b.sequences[1].first_row, 3);
}

TEST(StepBatchBuilder, AdvancesABatchThatOnlyDecodes) {
  StepBatchBuilder builder(16, 4, 4);
  const V first{3, 1}, second{7}, second_later{7, 5};
  builder.AddSequence(V{10}, 6, first, false);
  builder.AddOutput(0, WithSeed(1));
  builder.AddSequence(V{20}, 3, second, false);
  builder.AddOutput(0, WithSeed(2));
  builder.Advance(0, 11, first, WithSeed(3));
  builder.Advance(1, 21, second_later, WithSeed(4));
  const StepBatch& b = builder.Finish();
  EXPECT_EQ(b.token_ids, (V{11, 21}));
  EXPECT_EQ(b.positions, (V{7, 4}));
  EXPECT_EQ(b.sequences[0].context_tokens, 7);
  EXPECT_EQ(b.sequences[1].context_tokens, 4);
  EXPECT_EQ(b.sequences[1].pages, second_later.data());
  EXPECT_EQ(b.sample_params[1].seed, 4u);
  EXPECT_EQ(b.output_rows, (V{0, 1}));
}

TEST(StepBatchBuilder, ATokenThatNobodyKnowsYetIsNamedByTheOutputThatDrawsIt) {
  StepBatchBuilder builder(16, 4, 4);
  const V first{3, 1}, second{7}, third{5};
  builder.AddSequence(V{10, 11}, 4, first, true);
  builder.AddUnknownToken(2, 3, second);
  builder.AddOutput(0, WithSeed(1));
  builder.AddSequence(V{20}, 0, third, true);
  const StepBatch& b = builder.Finish();
  EXPECT_EQ(b.token_ids, (V{10, 11, -1, 20}));
  EXPECT_EQ(b.token_from_previous, (V{-1, -1, 2, -1}));
  EXPECT_EQ(b.positions, (V{4, 5, 3, 0}));
  EXPECT_EQ(b.num_prefill_rows, 3);
  EXPECT_EQ(b.output_rows, V{2});
  builder.Clear();
  builder.AddSequence(V{20}, 0, third, true);
  EXPECT_EQ(builder.Finish().token_from_previous, V{}) << "every token is known";
}

TEST(StepBatchBuilderDeathTest, ADraftNeedsItsPages) {
  StepBatchBuilder builder(16, 4, 4);
  const V one_page{7};
  builder.AddSequence(V{20}, 3, one_page, false);
  EXPECT_DEATH(builder.AddDraft(V{21}, one_page), "");
}

TEST(StepBatchBuilderDeathTest, OneTokenFurtherNeedsItsPageToo) {
  StepBatchBuilder builder(16, 4, 4);
  const V pages{7};
  builder.AddSequence(V{20}, 3, pages, false);
  builder.AddOutput(0, WithSeed(2));
  EXPECT_DEATH(builder.Advance(0, 21, pages, WithSeed(3)), "page_tokens_");
}

TEST(StepBatchBuilderDeathTest, RowsWithoutAPageAreRefused) {
  StepBatchBuilder builder(16, 4, 4);
  EXPECT_DEATH(builder.AddSequence(V{1, 2}, 7, V{0, 1}, true), "num_pages");
}

}  // namespace
}  // namespace dunlin::worker
