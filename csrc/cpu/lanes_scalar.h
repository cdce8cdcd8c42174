// Sixteen floats side by side in portable C++: the level every processor has.
//
// The three levels offer the same operations with the same rounding, with one exception: without a fused
// multiply-add this level rounds the product too, so its last bits differ from those of the others.
#pragma once

#include <cstdint>
#include <cstring>

namespace megaent {
namespace {

struct ScalarLanes {
  static constexpr int kWidth = 16;
  struct Floats {
    float lane[16];
  };
  struct Mask {
    uint32_t lane[16];  // all ones or all zeros
  };
  struct Counts {
    int32_t lane[16];
  };

  template <class Operation>
  static Floats each(Operation operation) {
    Floats result;
    for (int i = 0; i < 16; ++i) result.lane[i] = operation(i);
    return result;
  }
  template <class Condition>
  static Mask where(Condition condition) {
    Mask result;
    for (int i = 0; i < 16; ++i) result.lane[i] = condition(i) ? ~0u : 0u;
    return result;
  }
  static uint32_t bits(float value) {
    uint32_t result;
    memcpy(&result, &value, sizeof result);
    return result;
  }
  static float from_bits(uint32_t value) {
    float result;
    memcpy(&result, &value, sizeof result);
    return result;
  }
  static uint16_t to_bfloat16(float value) {
    if (value != value) return 0x7fc0;
    const uint32_t whole = bits(value);
    return static_cast<uint16_t>((whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16);  // to nearest, ties to even
  }

  static Floats set(float value) {
    return each([&](int) { return value; });
  }
  static Counts no_counts() { return Counts{}; }
  static Floats load(const float* from) {
    return each([&](int i) { return from[i]; });
  }
  static Floats load(const uint16_t* from) {
    return each([&](int i) { return from_bits(static_cast<uint32_t>(from[i]) << 16); });
  }
  static void store(float* to, const Floats& a) { memcpy(to, a.lane, sizeof a.lane); }
  static void store(uint16_t* to, const Floats& a) {
    for (int i = 0; i < 16; ++i) to[i] = to_bfloat16(a.lane[i]);
  }
  static void store(int32_t* to, const Counts& a) { memcpy(to, a.lane, sizeof a.lane); }

  static Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Floats sub(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static Floats mul(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  // a * b + c
  static Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  // The larger; b where either is NaN.
  static Floats max(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // False for NaN, as is `equal`.
  static Mask less(const Floats& a, const Floats& b) {
    return where([&](int i) { return a.lane[i] < b.lane[i]; });
  }
  static Mask equal(const Floats& a, const Floats& b) {
    return where([&](int i) { return a.lane[i] == b.lane[i]; });
  }
  static Mask either(const Mask& a, const Mask& b) {
    return where([&](int i) { return (a.lane[i] | b.lane[i]) != 0; });
  }
  static Floats zero_where(const Mask& mask, const Floats& a) {
    return each([&](int i) { return from_bits(bits(a.lane[i]) & ~mask.lane[i]); });
  }
  // a where the mask is true, b elsewhere.
  static Floats pick(const Mask& mask, const Floats& a, const Floats& b) {
    return each([&](int i) { return mask.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Counts count(const Counts& counts, const Mask& mask) {
    Counts result;
    for (int i = 0; i < 16; ++i) result.lane[i] = counts.lane[i] + static_cast<int32_t>(mask.lane[i] & 1u);
    return result;
  }
  // a * 2^n; `shifted` holds n + 1.5 * 2^23, whose low bits are the integer n.
  static Floats scale(const Floats& a, const Floats& shifted) {
    return each([&](int i) { return from_bits(bits(a.lane[i]) + (bits(shifted.lane[i]) << 23)); });
  }
};

}  // namespace
}  // namespace megaent
