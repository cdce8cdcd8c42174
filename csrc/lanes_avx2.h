// Sixteen floats side by side in two AVX2 registers; what each operation means stands in lanes_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace megaent {
namespace {

struct Avx2Lanes {
  struct Floats {
    __m256 low, high;
  };
  using Mask = Floats;  // all ones or all zeros in a lane
  struct Counts {
    __m256i low, high;
  };

  static Floats set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Counts no_counts() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static Floats load(const uint16_t* from) { return {widen(from), widen(from + 8)}; }
  static void store(float* to, Floats a) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
  }
  static void store(uint16_t* to, Floats a) {
    // Packing works within halves of 128 bits; the permutation puts the quarters back in order.
    const __m256i packed = _mm256_packus_epi32(narrow(a.low), narrow(a.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  static void store(int32_t* to, Counts a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), a.high);
  }

  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Mask less(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
  }
  static Mask equal(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)};
  }
  static Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)}; }
  static Floats zero_where(Mask mask, Floats a) {
    return {_mm256_andnot_ps(mask.low, a.low), _mm256_andnot_ps(mask.high, a.high)};
  }
  static Counts count(Counts counts, Mask mask) {  // a true lane is the integer -1
    return {_mm256_sub_epi32(counts.low, _mm256_castps_si256(mask.low)),
            _mm256_sub_epi32(counts.high, _mm256_castps_si256(mask.high))};
  }
  static Floats scale(Floats a, Floats shifted) {
    return {scale(a.low, shifted.low), scale(a.high, shifted.high)};
  }

 private:
  static __m256 widen(const uint16_t* from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  // The bits of the nearest bf16, ties to even, in the low half of each integer.
  static __m256i narrow(__m256 a) {
    const __m256i whole = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(whole, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(whole, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), is_nan);
  }
  static __m256 scale(__m256 a, __m256 shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
  }
};

}  // namespace
}  // namespace megaent
