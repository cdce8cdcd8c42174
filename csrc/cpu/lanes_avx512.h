// Sixteen floats side by side in one AVX-512 register; what each operation means stands in lanes_scalar.h.
// Only the foundation instructions (AVX512F) are used.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header makes an undefined register by reading itself, and GCC 12 warns of that where it is
// inlined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace megaent {
namespace {

struct Avx512Lanes {
  static constexpr int kWidth = 16;
  using Floats = __m512;
  using Mask = __mmask16;
  using Counts = __m512i;

  static Floats set(float value) { return _mm512_set1_ps(value); }
  static Counts no_counts() { return _mm512_setzero_si512(); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static Floats load(const uint16_t* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store(float* to, Floats a) { _mm512_storeu_ps(to, a); }
  static void store(uint16_t* to, Floats a) {
    const __m512i whole = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(whole, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(whole, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const Mask is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    const __m512i nearest =
        _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), is_nan, _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(nearest));
  }
  static void store(int32_t* to, Counts a) { _mm512_storeu_si512(to, a); }

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Mask less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Floats zero_where(Mask mask, Floats a) { return _mm512_maskz_mov_ps(static_cast<Mask>(~mask), a); }
  static Floats pick(Mask mask, Floats a, Floats b) { return _mm512_mask_blend_ps(mask, b, a); }
  static Counts count(Counts counts, Mask mask) {
    return _mm512_mask_add_epi32(counts, mask, counts, _mm512_set1_epi32(1));
  }
  static Floats scale(Floats a, Floats shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponent));
  }
};

}  // namespace
}  // namespace megaent
