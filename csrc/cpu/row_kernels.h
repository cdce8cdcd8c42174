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

// With log p = (z - max) / temperature - log_total: every entry becomes p (constant + slope log p). With a
// reference it becomes p (constant + slope log p + divergence d), d = (z - z_ref) / temperature + rho.
struct RowGradient {
  float inv_temperature;
  float max;
  float log_total;
  float constant;
  float slope;
  float rho;
  float divergence;
};

// What normalises one row of the policy's logits and the reference's, as in megaent/ops/divergence.py.
struct RowPair {
  float inv_temperature;
  float max, log_total;
  float max_ref, log_total_ref;
  float rho;         // log of the reference's mass over the policy's
  bool is_rho_small;  // (z - z_ref) / temperature + rho loses nothing; else log p - log q loses less
};

struct RowDivergence {
  double kl;      // sum of p d - p + q
  double excess;  // sum of q - p, which is 0 where rho is exact
};

// Which logits a pass of megaent/ops/nucleus.py looks at, and which eight bits of them tell them apart.
struct RowDigit {
  float inv_temperature;
  float max;
  uint64_t prefix;  // what the bits above those eight must be
  int shift;        // of the lowest of the eight
};

constexpr int kDigits = 256;

constexpr int kTop = 8;  // largest entries that are looked for

// bf16 goes by as its bits. Results depend on the row alone: not on its alignment, not on the rows beside it.
struct RowKernels {
  RowStats (*stats_float)(const float* row, int64_t num_columns, float inv_temperature, bool moments);
  RowStats (*stats_bfloat16)(const uint16_t* row, int64_t num_columns, float inv_temperature, bool moments);
  // `grad` may be `row`; `reference` is nullptr or a row as long.
  void (*backward_float)(const float* row, const float* reference, float* grad, int64_t num_columns,
                         const RowGradient& how);
  void (*backward_bfloat16)(const uint16_t* row, const uint16_t* reference, uint16_t* grad,
                            int64_t num_columns, const RowGradient& how);
  RowDivergence (*divergence_float)(const float* row, const float* reference, int64_t num_columns,
                                    const RowPair& pair);
  RowDivergence (*divergence_bfloat16)(const uint16_t* row, const uint16_t* reference, int64_t num_columns,
                                       const RowPair& pair);
  void (*top_float)(const float* row, int64_t num_columns, float* top);  // kTop of them, falling
  void (*top_bfloat16)(const uint16_t* row, int64_t num_columns, float* top);
  int64_t (*count_above_float)(const float* row, int64_t num_columns, float bound);
  int64_t (*count_above_bfloat16)(const uint16_t* row, int64_t num_columns, float bound);
  // Adds to `mass`, of kDigits, in units of 2^-40.
  void (*mass_float)(const float* row, int64_t num_columns, const RowDigit& digit, int64_t* mass);
  void (*mass_bfloat16)(const uint16_t* row, int64_t num_columns, const RowDigit& digit, int64_t* mass);
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
