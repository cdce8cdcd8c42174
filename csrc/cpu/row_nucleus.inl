// How a row's probability lies over eight bits of its logits, for the search of megaent/ops/nucleus.py.
// Bytes moved per row: V * size.
#pragma once

#include "row_kernels.h"
#include "row_lanes.inl"

namespace megaent {
namespace {

constexpr float kMassUnits = 0x1p40f;  // in the largest probability of a row

// An unsigned integer in the order of the floats; 0.0 and -0.0 are equal.
inline uint32_t ordered_bits(float value) {
  const float positive_zero = value + 0.0f;
  uint32_t bits;
  memcpy(&bits, &positive_zero, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// exp(x) is 1 at most; what comes of a NaN has no mass.
inline int64_t units_of(float e) { return e >= 0.0f && e <= 1.0f ? llrintf(e * kMassUnits) : 0; }

template <class Lanes, class Entry>
void mass_row(const Entry* row, int64_t num_columns, const RowDigit& digit, int64_t* mass) {
  constexpr int64_t kWidth = Lanes::kWidth;
  const auto max = Lanes::set(digit.max), inverse = Lanes::set(digit.inv_temperature);
  const auto lowest = Lanes::set(kLowest);
  for (int64_t start = 0; start < num_columns; start += kWidth) {
    const int64_t left = num_columns - start;
    const int64_t count = left < kWidth ? left : kWidth;
    uint32_t key[kWidth];
    bool is_open[kWidth], is_any = false;
    for (int64_t k = 0; k < count; ++k) {
      const float value = value_of(row[start + k]);
      key[k] = ordered_bits(value);
      is_open[k] = value <= digit.max && static_cast<uint64_t>(key[k]) >> (digit.shift + 8) == digit.prefix;
      is_any = is_any || is_open[k];
    }
    if (!is_any) continue;
    const Tail<Entry> tail(row + start, count);
    const auto x = Lanes::mul(Lanes::sub(Lanes::load(tail.entries), max), inverse);
    float e[kWidth];
    Lanes::store(e, Lanes::zero_where(Lanes::less(x, lowest), exp_of_negative<Lanes>(Lanes::max(lowest, x))));
    for (int64_t k = 0; k < count; ++k) {
      if (is_open[k]) mass[(key[k] >> digit.shift) & (kDigits - 1)] += units_of(e[k]);
    }
  }
}

}  // namespace
}  // namespace megaent
