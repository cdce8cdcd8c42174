// What all row kernels share: exponentials, maxima and walks over a row in sixteen lanes.
//
// Everything in the row kernels has internal linkage and calls no inline function of the standard library:
// one with external linkage, compiled for AVX-512, could be the copy that the linker keeps for every level.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

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

}  // namespace
}  // namespace megaent
