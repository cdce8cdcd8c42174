// One pass of the search for a nucleus over every row; as in megaent/ops/reference.py.
#include <torch/csrc/stable/ops.h>

#include "ops.h"
#include "row_kernels.h"
#include "rows.h"

namespace megaent {
namespace {

template <class Entry, class MassRow>
void fill_mass(const Tensor& logits, const Tensor& max, const Tensor& prefix, int shift,
               double inv_temperature, MassRow mass_row, int64_t* mass) {
  const int64_t num_columns = logits.size(1), stride = logits.stride(0);
  const auto* rows = static_cast<const Entry*>(logits.const_data_ptr());
  const Column<float> maxima(max);
  const Column<int64_t> prefixes(prefix);
  torch::stable::parallel_for(0, logits.size(0), rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const RowDigit digit{static_cast<float>(inv_temperature), maxima[n],
                           static_cast<uint64_t>(prefixes[n]), shift};
      int64_t* to = mass + n * kDigits;
      for (int k = 0; k < kDigits; ++k) to[k] = 0;
      mass_row(rows + n * stride, num_columns, digit, to);
    }
  });
}

}  // namespace

Tensor mass_by_digit(Tensor logits, Tensor max, Tensor prefix, int64_t shift, double inv_temperature) {
  check_logits(logits, "logits");
  check_type(max, "max", {ScalarType::Float});
  check_shape(max, "max", {logits.size(0)});
  check_type(prefix, "prefix", {ScalarType::Long});
  check_shape(prefix, "prefix", {logits.size(0)});
  if (shift < 0 || shift > 24) {
    throw std::runtime_error("shift must lie in [0, 24], got " + std::to_string(shift));
  }
  Tensor mass = torch::stable::new_empty(logits, {logits.size(0), kDigits}, ScalarType::Long);
  auto* to = mass.mutable_data_ptr<int64_t>();
  const RowKernels& kernels = row_kernels();
  const int bits = static_cast<int>(shift);
  if (logits.scalar_type() == ScalarType::Float) {
    fill_mass<float>(logits, max, prefix, bits, inv_temperature, kernels.mass_float, to);
  } else {
    fill_mass<uint16_t>(logits, max, prefix, bits, inv_temperature, kernels.mass_bfloat16, to);
  }
  return mass;
}

}  // namespace megaent
