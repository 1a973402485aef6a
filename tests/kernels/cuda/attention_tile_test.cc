// The shared-memory addresses that the lanes of attention's loads read, against the rule of the 32 banks, and the maps
// of tokens and dims as permutations.
#include "kernels/cuda/attention_tile.h"

#include <algorithm>
#include <array>
#include <set>

#include "gtest/gtest.h"

namespace dunlin::kernels::cuda {
namespace {

// The most addresses of one bank, 1 meaning no conflict, when a warp's lanes each read `bytes` at their address. A load
// of 16 bytes goes eight lanes at a time, one of 8 bytes sixteen (CUDA programming guide: 128 bytes per pass).
template <typename Address>
int WorstBank(int bytes, const Address& address) {
  const int lanes = 128 / bytes;
  int worst = 0;
  for (int first = 0; first < 32; first += lanes) {
    std::array<std::set<int>, 32> words;
    for (int lane = first; lane < first + lanes; ++lane) {
      EXPECT_EQ(address(lane) % bytes, 0);
      for (int word = address(lane) / 4; word < (address(lane) + bytes) / 4; ++word) {
        words[static_cast<size_t>(word % 32)].insert(word);
      }
    }
    for (const auto& bank : words) worst = std::max(worst, static_cast<int>(bank.size()));
  }
  return worst;
}

template <KvFormat kFormat, int kDim>
void CheckBanks() {
  using T = Tile<kFormat, kDim>;
  for (int load = 0; load < T::kKeyLoads; ++load) {
    for (int half = 0; half < 2; ++half) {
      EXPECT_EQ(WorstBank(16, [&](int lane) { return T::KeyAt(lane, half, load); }), 1) << "K, load " << load;
    }
  }
  for (int load = 0; load < T::kValueLoads; ++load) {
    if (T::kValueBytes == 2) {  // a pass of ldmatrix is a matrix of eight rows of 16 bytes
      EXPECT_EQ(WorstBank(16, [&](int lane) { return T::ValueAt(lane, 0, load); }), 1) << "V, load " << load;
      continue;
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(WorstBank(T::kRun, [&](int lane) { return T::ValueAt(lane, i, load); }), 1) << "V, load " << load;
    }
  }
}

TEST(AttentionTile, NoLoadHasABankConflict) {
  CheckBanks<KvFormat::kE4M3, 64>();
  CheckBanks<KvFormat::kE4M3, 128>();
  CheckBanks<KvFormat::kE4M3, 256>();
  CheckBanks<KvFormat::kF16, 64>();
  CheckBanks<KvFormat::kF16, 128>();
  CheckBanks<KvFormat::kF16, 256>();
}

TEST(AttentionTile, TheCountSeesAConflict) {
  EXPECT_EQ(WorstBank(16, [](int lane) { return lane * 64; }), 4);
  EXPECT_EQ(WorstBank(8, [](int lane) { return lane * 16; }), 2);
}

template <KvFormat kFormat, int kDim>
void CheckMaps() {
  using T = Tile<kFormat, kDim>;
  std::set<int> key_dims, value_dims, key_bytes, value_bytes;
  for (int step = 0; step < kDim / 16; ++step) {
    for (int t = 0; t < 4; ++t) key_dims.insert(T::KeyDim(t, step));
  }
  for (int m = 0; m < kDim / 16; ++m) {
    for (int row = 0; row < 16; ++row) value_dims.insert(T::ValueDim(m, row));
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int load = 0; load < T::kKeyLoads; ++load) {
      for (int half = 0; half < 2; ++half) key_bytes.insert(T::KeyAt(lane, half, load));
    }
    for (int load = 0; load < T::kValueLoads; ++load) {
      for (int i = 0; i < (T::kValueBytes == 2 ? 1 : 4); ++i) value_bytes.insert(T::ValueAt(lane, i, load));
    }
  }
  EXPECT_EQ(static_cast<int>(key_dims.size()), kDim / 4);
  EXPECT_EQ(*key_dims.rbegin(), kDim - 4);
  EXPECT_EQ(static_cast<int>(value_dims.size()), kDim);
  EXPECT_EQ(*value_dims.rbegin(), kDim - 1);
  EXPECT_EQ(static_cast<int>(key_bytes.size()), T::kBytes / 16);
  EXPECT_EQ(*key_bytes.rbegin(), T::kBytes - 16);
  const int run = T::kValueBytes == 2 ? 16 : T::kRun;
  EXPECT_EQ(static_cast<int>(value_bytes.size()), T::kBytes / run);
  EXPECT_EQ(*value_bytes.rbegin(), T::kBytes - run);
}

TEST(AttentionTile, EveryByteAndDimIsTakenOnce) {
  CheckMaps<KvFormat::kInt8, 64>();
  CheckMaps<KvFormat::kInt8, 128>();
  CheckMaps<KvFormat::kInt8, 256>();
  CheckMaps<KvFormat::kF16, 64>();
  CheckMaps<KvFormat::kF16, 128>();
  CheckMaps<KvFormat::kF16, 256>();
}

TEST(AttentionTile, PagesOfTilesWithoutADivision) {
  for (const int page_tokens : {16, 32, 48, 64, 112, 4080, 4096}) {
    DevicePages pages;
    pages.layout =
        PageLayout::Create(page_tokens, 1, 1, 64, KvFormat::kE4M3, KvFormat::kE4M3, false, SlabOrder::kDevice);
    const LayerSlabs slabs = SlabsOfLayer(pages, 0);
    const auto check = [&](int token) {
      ASSERT_EQ(PageOfTile(slabs, token), token / page_tokens) << token << " of " << page_tokens;
      ASSERT_EQ(SlotOf(slabs, 3, token), static_cast<size_t>(3 * page_tokens + token % page_tokens));
    };
    for (int page = 0; page < 70; ++page) check(page * page_tokens), check((page + 1) * page_tokens - 16);
    for (int token = (1 << 28) - 16; token > (1 << 28) - 20000; token -= 16) check(token);
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
