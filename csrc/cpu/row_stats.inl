// The statistics of one row: one read from memory, in blocks that stay in the first-level cache, with a pass
// for the block's maximum, a pass for its sums in fp32 lanes, and the blocks added up in fp64.
// Bytes moved per row: V * size.
#pragma once

#include "row_kernels.h"
#include "row_lanes.inl"

namespace megaent {
namespace {

// Makes the sums relative to a larger maximum: all they held is now below it.
inline void raise_max(RowStats& row, float max, float inv_temperature) {
  if (row.max != -INFINITY) {
    const double shift = (static_cast<double>(row.max) - static_cast<double>(max)) * inv_temperature;
    const double scale = exp(shift);
    const double total = row.count + row.below;
    // exp(shift) * shift^2 is 0 where the exponential is, however large the shift.
    const double by = scale > 0.0 ? shift : 0.0;
    row.second = scale * (row.second + by * (2.0 * row.weighted + by * total));
    row.weighted = scale * (row.weighted + by * total);
    row.square *= scale * scale;
    row.below = scale * total;
    row.count = 0.0;
  }
  row.max = max;
}

struct BlockSums {
  int32_t count[kLanes];
  float below[kLanes], weighted[kLanes], square[kLanes], second[kLanes];
};

// Few blocks of a row hold its maximum; the others need no count of it. Both forms give the same bits.
template <class Lanes, class Entry, bool holds_max, bool moments>
void sum_part(const Entry* entries, int64_t count, int part, float row_max, float inv_temperature,
              BlockSums& sums) {
  using Floats = typename Lanes::Floats;
  const Floats max = Lanes::set(row_max), inverse = Lanes::set(inv_temperature);
  const Floats zero = Lanes::set(0.0f), lowest = Lanes::set(kLowest);
  Floats below = zero, weighted = zero, square = zero, second = zero;
  auto at_max = Lanes::no_counts();
  for_each_of_part<Lanes>(entries, count, part, [&](Floats z) {
    const Floats whole = Lanes::mul(Lanes::sub(z, max), inverse);
    auto is_left_out = Lanes::less(whole, lowest);
    if constexpr (holds_max) {
      const auto is_max = Lanes::equal(whole, zero);
      at_max = Lanes::count(at_max, is_max);
      is_left_out = Lanes::either(is_max, is_left_out);
    }
    const Floats x = Lanes::max(lowest, whole);
    const Floats e = Lanes::zero_where(is_left_out, exp_of_negative<Lanes>(x));
    const Floats product = Lanes::mul(e, x);
    below = Lanes::add(below, e);
    weighted = Lanes::add(weighted, product);
    if constexpr (moments) {
      square = Lanes::fma(e, e, square);
      second = Lanes::fma(product, x, second);
    }
  });
  Lanes::store(sums.count + part, at_max);
  Lanes::store(sums.below + part, below);
  Lanes::store(sums.weighted + part, weighted);
  Lanes::store(sums.square + part, square);
  Lanes::store(sums.second + part, second);
}

template <class Lanes, class Entry, bool holds_max, bool moments>
void add_block(RowStats& row, const Entry* entries, int64_t count, float inv_temperature) {
  BlockSums sums;
  for (int part = 0; part < kLanes; part += Lanes::kWidth) {
    sum_part<Lanes, Entry, holds_max, moments>(entries, count, part, row.max, inv_temperature, sums);
  }
  const double num_max = sum_of(sums.count);
  row.count += num_max;
  row.below += sum_of(sums.below);
  row.weighted += sum_of(sums.weighted);
  if constexpr (moments) {
    row.square += num_max + sum_of(sums.square);
    row.second += sum_of(sums.second);
  }
}

template <class Lanes, class Entry, bool moments>
RowStats stats_of(const Entry* row, int64_t num_columns, float inv_temperature) {
  RowStats stats{-INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0};
  for (int64_t start = 0; start < num_columns; start += kBlock) {
    const int64_t left = num_columns - start;
    const int64_t count = left < kBlock ? left : kBlock;
    const float max = max_of<Lanes>(row + start, count);
    if (max == -INFINITY) continue;  // no entry of the block has any probability
    if (!(max <= stats.max)) raise_max(stats, max, inv_temperature);
    if (max < stats.max) {
      add_block<Lanes, Entry, false, moments>(stats, row + start, count, inv_temperature);
    } else {
      add_block<Lanes, Entry, true, moments>(stats, row + start, count, inv_temperature);
    }
  }
  // The exponential of a NaN is made by integer arithmetic and may be a number; its product with x is none.
  if (stats.weighted != stats.weighted) stats.below = stats.weighted;
  return stats;
}

template <class Lanes, class Entry>
RowStats stats_row(const Entry* row, int64_t num_columns, float inv_temperature, bool moments) {
  return moments ? stats_of<Lanes, Entry, true>(row, num_columns, inv_temperature)
                 : stats_of<Lanes, Entry, false>(row, num_columns, inv_temperature);
}

}  // namespace
}  // namespace megaent
