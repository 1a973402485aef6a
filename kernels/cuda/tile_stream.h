// The bytes of a row tile on their way into a warp's registers, some loads ahead of their use (matrix_tile.h says how
// they lie). Thread-safety: device code.  Owns: registers.  Errors: none.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_TILE_STREAM_H_
#define DUNLIN_KERNELS_CUDA_TILE_STREAM_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/product_form.h"

namespace dunlin::kernels::cuda {

// The codes of units first … last - 1 in the order in which they lie, kLoads of a warp ahead, and their scales kUnits
// ahead. What is left moves up, so that every index is a constant.
template <typename F, int kLoads, int kUnits>
class TileStream {
 public:
  DUNLIN_DEV TileStream(const CudaMatrix& m, const uint8_t* tile, int first, int last)
      : codes_at_(tile + int64_t{first} * (F::kUnitLoads * kLoadBytes) + dev::Lane() * 16),
        loads_left_((last - first) * F::kUnitLoads),
        units_left_(last - first),
        has_factors_(m.factor_cols != 0),
        is_offset_(m.second == CudaSecond::kOffset),
        code_offset_(static_cast<uint8_t>(m.code_offset)) {
    if constexpr (F::kScales) {
      const int g = dev::Lane() / 4, t = dev::Lane() % 4;
      unit_bytes_ = m.unit_scale_bytes();
      const uint8_t* scales = tile + m.scales_at() + int64_t{first} * unit_bytes_;
      scales_at_ = scales + (t * 32 / m.group_cols * 8 + g) * m.scale_bytes();
      const uint8_t* factors =
          scales + 8 * (kUnitColumns / m.group_cols * m.scale_bytes()) + (t * 8 + g) * m.factor_bytes();
      factors_behind_ = static_cast<int>(factors - scales_at_);
    }
    DUNLIN_UNROLL
    for (int i = 0; i < kLoads; ++i) LoadCodes(&codes_[i]);
    DUNLIN_UNROLL
    for (int i = 0; i < kUnits; ++i) LoadScales(&scales_[i]);
  }
  DUNLIN_DEV dev::U4 NextLoad() {
    const dev::U4 next = codes_[0];
    DUNLIN_UNROLL
    for (int i = 0; i + 1 < kLoads; ++i) codes_[i] = codes_[i + 1];
    LoadCodes(&codes_[kLoads - 1]);
    return next;
  }
  // Those of block t, in lane t of each quad.
  DUNLIN_DEV Scales<F> NextScales() {
    Scales<F> s = {};
    if constexpr (F::kScales) {
      s = Decode(scales_[0]);
      DUNLIN_UNROLL
      for (int i = 0; i + 1 < kUnits; ++i) scales_[i] = scales_[i + 1];
      LoadScales(&scales_[kUnits - 1]);
    }
    return s;
  }

 private:
  struct Raw {
    uint32_t scale, second;  // halves of rows g and g + 8
    dev::U2 factors;
  };

  DUNLIN_DEV void LoadCodes(dev::U4* to) {
    if (loads_left_ > 0) *to = dev::LoadStream16(codes_at_);
    codes_at_ += kLoadBytes;
    --loads_left_;
  }
  DUNLIN_DEV void LoadScales(Raw* to) {
    if constexpr (F::kScales) {
      if (units_left_ > 0) {
        if constexpr (F::kMin) {
          const dev::U2 both = dev::LoadReadOnly8(scales_at_);
          to->scale = both.x, to->second = both.y;
        } else {
          to->scale = dev::LoadReadOnly4(scales_at_);
        }
        LoadFactors(to);
      }
      scales_at_ += unit_bytes_;
      --units_left_;
    }
  }
  DUNLIN_DEV void LoadFactors(Raw* to) const {
    if constexpr (F::kHalves == 2 && F::kMin) {
      to->factors = dev::LoadReadOnly8(scales_at_ + factors_behind_);
    } else if constexpr (F::kHalves == 2) {
      to->factors.x = dev::LoadReadOnly4(scales_at_ + factors_behind_);
    } else if constexpr (F::kMin) {
      if (has_factors_) to->factors.x = dev::LoadReadOnly4(scales_at_ + factors_behind_);
    } else {
      if (has_factors_) to->factors.x = *reinterpret_cast<const uint16_t*>(scales_at_ + factors_behind_);
    }
  }
  DUNLIN_DEV Scales<F> Decode(const Raw& raw) const {
    Scales<F> s = {};
    s.code_offset = code_offset_;
    DUNLIN_UNROLL
    for (int i = 0; i < 2 * F::kHalves; ++i) {
      const int r = i / F::kHalves, h = i % F::kHalves;
      float d = r == 0 ? dev::HalfLow(raw.scale) : dev::HalfHigh(raw.scale);
      float min = 0.0f;
      if constexpr (F::kMin) min = r == 0 ? dev::HalfLow(raw.second) : dev::HalfHigh(raw.second);
      if (F::kHalves == 2 || has_factors_) {
        d *= static_cast<float>(static_cast<int8_t>(raw.factors.x >> (8 * i)));
        const uint32_t factor = F::kHalves == 2 ? raw.factors.y >> (8 * i) : raw.factors.x >> (16 + 8 * i);
        if constexpr (F::kMin) min *= static_cast<float>(factor & 255u);
      }
      // An offset times the scale is exact: eleven bits times nine.
      if constexpr (F::kMin) s.min[r][h] = is_offset_ ? d * min : min;
      s.scale[r][h] = d;
    }
    return s;
  }

  const uint8_t* codes_at_;
  const uint8_t* scales_at_;
  int loads_left_, units_left_;
  int unit_bytes_, factors_behind_;
  bool has_factors_, is_offset_;
  uint32_t code_offset_;
  dev::U4 codes_[kLoads];
  Raw scales_[kUnits];
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_TILE_STREAM_H_
