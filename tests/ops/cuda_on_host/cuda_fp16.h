// fp16 as CUDA spells it, by torch's own conversions.
#pragma once

#include <torch/headeronly/util/Half.h>

#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half value) { return c10::detail::fp16_ieee_to_fp32_value(value.bits); }
inline __half __float2half_rn(float value) { return {c10::detail::fp16_ieee_from_fp32_value(value)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }

// Passes over NaN, as fmaxf does.
inline __half2 __hmax2(__half2 a, __half2 b) {
  const auto larger = [](__half p, __half q) {
    return __float2half_rn(std::fmax(__half2float(p), __half2float(q)));
  };
  return {larger(a.x, b.x), larger(a.y, b.y)};
}
