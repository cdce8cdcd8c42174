// What one row of logits is turned into, and the table of functions that do it at one instruction level.
#pragma once

#include <cstdint>

namespace megaent {

// With x = (z - max) / temperature: the sums of megaent/ops/reference.py over one row.
struct RowStats {
  float max;        // of the logits, temperature not applied
  double count;     // entries equal to the maximum
  double below;     // sum of exp(x) over the others
  double weighted;  // sum of exp(x) x
  double square;    // sum of exp(2 x) over all; these two only with moments
  double second;    // sum of exp(x) x^2
};

// With log p = (z - max) / temperature - log_total: every entry becomes p (constant + slope log p).
struct RowGradient {
  float inv_temperature;
  float max;
  float log_total;
  float constant;
  float slope;
};

// bf16 goes by as its bits. Results depend on the row alone: not on its alignment, not on the rows beside it.
struct RowKernels {
  RowStats (*stats_float)(const float* row, int64_t num_columns, float inv_temperature, bool moments);
  RowStats (*stats_bfloat16)(const uint16_t* row, int64_t num_columns, float inv_temperature, bool moments);
  // `grad` may be `row`.
  void (*backward_float)(const float* row, float* grad, int64_t num_columns, const RowGradient& how);
  void (*backward_bfloat16)(const uint16_t* row, uint16_t* grad, int64_t num_columns, const RowGradient& how);
};

extern const RowKernels kScalarRows;
#ifdef MEGAENT_X86
extern const RowKernels kAvx2Rows;
extern const RowKernels kAvx512Rows;
#endif

// The level named by the environment variable MEGAENT_OPS_SIMD (scalar, avx2 or avx512), or the highest one
// this processor has. Throws std::runtime_error for an unknown name and for a level it lacks.
const RowKernels& row_kernels();

}  // namespace megaent
