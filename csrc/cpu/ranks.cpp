// The largest logits of every row, and how many lie above a bound; as in megaent/ops/reference.py.
#include <torch/csrc/stable/ops.h>

#include "ops.h"
#include "row_kernels.h"
#include "rows.h"

namespace megaent {
namespace {

template <class Entry, class Visit>
void for_each_row(const Tensor& logits, Visit visit) {
  const int64_t num_columns = logits.size(1), stride = logits.stride(0);
  const auto* rows = static_cast<const Entry*>(logits.const_data_ptr());
  torch::stable::parallel_for(0, logits.size(0), rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) visit(n, rows + n * stride);
  });
}

}  // namespace

Tensor top_logits(Tensor logits) {
  check_logits(logits, "logits");
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  Tensor result = torch::stable::new_empty(logits, {kTop, num_rows}, ScalarType::Float);
  auto* to = result.mutable_data_ptr<float>();
  const RowKernels& kernels = row_kernels();
  const auto fill = [&](auto top_row) {
    return [=](int64_t n, const auto* row) {
      float top[kTop];
      top_row(row, num_columns, top);
      for (int k = 0; k < kTop; ++k) to[k * num_rows + n] = top[k];
    };
  };
  if (logits.scalar_type() == ScalarType::Float) {
    for_each_row<float>(logits, fill(kernels.top_float));
  } else {
    for_each_row<uint16_t>(logits, fill(kernels.top_bfloat16));
  }
  return result;
}

Tensor count_above(Tensor logits, Tensor bound) {
  check_logits(logits, "logits");
  check_type(bound, "bound", {ScalarType::Float});
  check_shape(bound, "bound", {logits.size(0)});
  const int64_t num_columns = logits.size(1);
  Tensor result = torch::stable::new_empty(logits, {logits.size(0)}, ScalarType::Long);
  auto* to = result.mutable_data_ptr<int64_t>();
  const Column<float> bounds(bound);
  const RowKernels& kernels = row_kernels();
  const auto fill = [&](auto count_above_row) {
    return [=](int64_t n, const auto* row) { to[n] = count_above_row(row, num_columns, bounds[n]); };
  };
  if (logits.scalar_type() == ScalarType::Float) {
    for_each_row<float>(logits, fill(kernels.count_above_float));
  } else {
    for_each_row<uint16_t>(logits, fill(kernels.count_above_bfloat16));
  }
  return result;
}

}  // namespace megaent
