// The row kernels, written once over sixteen lanes and compiled once per instruction level.
//
// Everything here has internal linkage and calls no inline function of the standard library: a function
// with external linkage compiled for AVX-512 could be the copy that the linker keeps for every level.
//
// Statistics read a row once from memory, in blocks that stay in the first-level cache: a pass for the
// block's maximum, a pass for its sums in fp32 lanes, and the blocks are added up in fp64.
// Bytes moved per row: statistics V * size, backward 2 * V * size.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "row_kernels.h"

namespace megaent {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 2048;  // columns: 8 KiB of fp32

// exp(x) below this counts as 0; 2^-124, so that results stay normal numbers.
constexpr float kLowest = -86.0f;

inline float value_of(float entry) { return entry; }
inline float value_of(uint16_t entry) {
  const uint32_t bits = static_cast<uint32_t>(entry) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline void set_minus_infinity(float& entry) { entry = -INFINITY; }
inline void set_minus_infinity(uint16_t& entry) { entry = 0xff80; }

// exp(x) for x in [kLowest, 0], relative error 1e-7: x = n log 2 + r with |r| <= log(2) / 2, and
// exp(r) = 1 + r + r^2 q(r), q of degree 4 fitted for the least relative error (3e-9).
// exp(0) is exactly 1; of NaN it is anything.
template <class Lanes>
inline typename Lanes::Floats exp_of_negative(typename Lanes::Floats x) {
  const auto magic = Lanes::set(0x1.8p23f);  // adding it rounds to an integer, kept in the low bits
  const auto shifted = Lanes::fma(x, Lanes::set(0x1.715476p+0f), magic);
  const auto n = Lanes::sub(shifted, magic);
  auto r = Lanes::fma(n, Lanes::set(-0x1.63p-1f), x);  // log 2 in two parts; the first has 9 bits, so n times
  r = Lanes::fma(n, Lanes::set(0x1.bd0106p-13f), r);   // it is exact
  auto q = Lanes::set(0x1.6a23cep-10f);
  q = Lanes::fma(q, r, Lanes::set(0x1.123a20p-7f));
  q = Lanes::fma(q, r, Lanes::set(0x1.5558f2p-5f));
  q = Lanes::fma(q, r, Lanes::set(0x1.555492p-3f));
  q = Lanes::fma(q, r, Lanes::set(0x1.fffffcp-2f));
  const auto p = Lanes::fma(q, Lanes::mul(r, r), Lanes::add(r, Lanes::set(1.0f)));
  return Lanes::scale(p, shifted);
}

// The last entries of a row, filled up with -inf to sixteen.
template <class Entry>
struct Tail {
  Entry entries[kLanes];

  Tail(const Entry* from, int64_t count) {
    for (int64_t k = 0; k < kLanes; ++k) {
      if (k < count) {
        entries[k] = from[k];
      } else {
        set_minus_infinity(entries[k]);
      }
    }
  }
};

// Calls `step` with the entries of lanes `part` to `part + kWidth`: entry i of a block belongs to lane i
// % 16. A narrow level goes over the block once per part, which keeps its sums in registers; the block is in
// the cache.
template <class Lanes, class Entry, class Step>
inline void for_each_of_part(const Entry* entries, int64_t count, int part, Step step) {
  const int64_t whole = count - count % kLanes;
  for (int64_t i = part; i < whole; i += kLanes) step(Lanes::load(entries + i));
  if (whole == count) return;
  const Tail<Entry> tail(entries + whole, count - whole);
  step(Lanes::load(tail.entries + part));
}

// In fp64 and in the order of the lanes, which is the same at every level.
template <class Value>
inline double sum_of(const Value (&lane)[kLanes]) {
  double sum = 0.0;
  for (const Value value : lane) sum += static_cast<double>(value);
  return sum;
}

// Passes over NaN, which the sums carry on; a block of nothing but NaN and -inf gives NaN.
template <class Lanes, class Entry>
inline float max_of(const Entry* entries, int64_t count) {
  constexpr int64_t kStep = 4 * Lanes::kWidth;
  auto max0 = Lanes::set(-INFINITY), max1 = max0, max2 = max0, max3 = max0;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    max0 = Lanes::max(Lanes::load(entries + i), max0);
    max1 = Lanes::max(Lanes::load(entries + i + Lanes::kWidth), max1);
    max2 = Lanes::max(Lanes::load(entries + i + 2 * Lanes::kWidth), max2);
    max3 = Lanes::max(Lanes::load(entries + i + 3 * Lanes::kWidth), max3);
  }
  float lane[Lanes::kWidth];
  Lanes::store(lane, Lanes::max(Lanes::max(max0, max1), Lanes::max(max2, max3)));
  float result = -INFINITY;
  for (const float value : lane) result = value > result ? value : result;
  for (; i < count; ++i) result = value_of(entries[i]) > result ? value_of(entries[i]) : result;
  if (result == -INFINITY) {
    for (i = 0; i < count; ++i) {
      const float value = value_of(entries[i]);
      if (value != value) return value;
    }
  }
  return result;
}

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

template <class Lanes, class Entry>
void backward_row(const Entry* row, Entry* grad, int64_t num_columns, const RowGradient& how) {
  using Floats = typename Lanes::Floats;
  const Floats max = Lanes::set(how.max), inverse = Lanes::set(how.inv_temperature);
  const Floats log_total = Lanes::set(how.log_total), lowest = Lanes::set(kLowest);
  const Floats constant = Lanes::set(how.constant), slope = Lanes::set(how.slope);
  const auto gradient = [&](Floats z) {
    const Floats log_p = Lanes::sub(Lanes::mul(Lanes::sub(z, max), inverse), log_total);
    const Floats x = Lanes::max(lowest, log_p);
    const Floats p = Lanes::zero_where(Lanes::less(log_p, lowest), exp_of_negative<Lanes>(x));
    return Lanes::mul(p, Lanes::fma(slope, x, constant));
  };
  constexpr int64_t kWidth = Lanes::kWidth;
  int64_t i = 0;
  for (; i + kWidth <= num_columns; i += kWidth) Lanes::store(grad + i, gradient(Lanes::load(row + i)));
  if (i == num_columns) return;
  Tail<Entry> tail(row + i, num_columns - i);
  Lanes::store(tail.entries, gradient(Lanes::load(tail.entries)));
  memcpy(grad + i, tail.entries, static_cast<size_t>(num_columns - i) * sizeof(Entry));
}

template <class Lanes>
constexpr RowKernels kernels_of() {
  return {stats_row<Lanes, float>, stats_row<Lanes, uint16_t>, backward_row<Lanes, float>,
          backward_row<Lanes, uint16_t>};
}

}  // namespace
}  // namespace megaent
