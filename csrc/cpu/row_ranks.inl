// Where a row's entries rank: its largest eight, and how many lie above a bound.
// Bytes moved per row: V * size.
#pragma once

#include "row_kernels.h"
#include "row_lanes.inl"

namespace megaent {
namespace {

constexpr int64_t kRankBlock = 256;  // columns looked through together; few hold one of the largest

// Falling, -inf where the row has fewer; NaN is passed over.
template <class Lanes, class Entry>
void top_row(const Entry* row, int64_t num_columns, float* top) {
  for (int k = 0; k < kTop; ++k) top[k] = -INFINITY;
  for (int64_t start = 0; start < num_columns; start += kRankBlock) {
    const int64_t left = num_columns - start;
    const int64_t count = left < kRankBlock ? left : kRankBlock;
    if (!(max_of<Lanes>(row + start, count) > top[kTop - 1])) continue;
    for (int64_t i = start; i < start + count; ++i) {
      const float value = value_of(row[i]);
      if (!(value > top[kTop - 1])) continue;
      int place = kTop - 1;
      for (; place > 0 && value > top[place - 1]; --place) top[place] = top[place - 1];
      top[place] = value;
    }
  }
}

template <class Lanes, class Entry>
int64_t count_above_row(const Entry* row, int64_t num_columns, float bound) {
  const auto limit = Lanes::set(bound);
  auto counts = Lanes::no_counts();
  constexpr int64_t kWidth = Lanes::kWidth;
  int64_t i = 0;
  for (; i + kWidth <= num_columns; i += kWidth) {
    counts = Lanes::count(counts, Lanes::less(limit, Lanes::load(row + i)));
  }
  if (i < num_columns) {  // what fills up the tail is above nothing
    const Tail<Entry> tail(row + i, num_columns - i);
    counts = Lanes::count(counts, Lanes::less(limit, Lanes::load(tail.entries)));
  }
  int32_t lane[kWidth];
  Lanes::store(lane, counts);
  int64_t total = 0;
  for (const int32_t count : lane) total += count;
  return total;
}

}  // namespace
}  // namespace megaent
