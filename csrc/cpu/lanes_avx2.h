// Eight floats side by side in an AVX2 register; what each operation means stands in lanes_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace megaent {
namespace {

struct Avx2Lanes {
  static constexpr int kWidth = 8;
  using Floats = __m256;
  using Mask = __m256;  // all ones or all zeros in a lane
  using Counts = __m256i;

  static Floats set(float value) { return _mm256_set1_ps(value); }
  static Counts no_counts() { return _mm256_setzero_si256(); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static Floats load(const uint16_t* from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static void store(float* to, Floats a) { _mm256_storeu_ps(to, a); }
  static void store(uint16_t* to, Floats a) {
    const __m256i whole = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(whole, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(whole, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i nearest = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), is_nan);
    const __m128i low = _mm256_castsi256_si128(nearest), high = _mm256_extracti128_si256(nearest, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packus_epi32(low, high));
  }
  static void store(int32_t* to, Counts a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a); }

  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static Mask less(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask equal(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Floats zero_where(Mask mask, Floats a) { return _mm256_andnot_ps(mask, a); }
  static Floats pick(Mask mask, Floats a, Floats b) { return _mm256_blendv_ps(b, a, mask); }
  static Counts count(Counts counts, Mask mask) {  // a true lane is the integer -1
    return _mm256_sub_epi32(counts, _mm256_castps_si256(mask));
  }
  static Floats scale(Floats a, Floats shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
  }
};

}  // namespace
}  // namespace megaent
