// A shard's part of KL(policy || reference) of every row: the three numbers of megaent/ops/divergence.py.
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "ops.h"
#include "row_kernels.h"
#include "rows.h"

namespace megaent {
namespace {

// What normalises a shard's part of a row; zeros where it is -inf throughout.
struct Mass {
  bool exists;
  double max = 0.0, log_total = 0.0;

  Mass(const float* partial, int64_t stride) : exists(!(partial[0] == -INFINITY)) {  // NaN exists, and stays
    if (!exists) return;
    max = partial[0];
    log_total = std::log1p(partial[2 * stride] + (partial[stride] - 1.0));
  }
};

// Nats. Near policies stay below it, and there the difference of two logits is exact.
constexpr double kSmallRho = 1.0;

struct ShardDivergence {
  double kl, rho;
};

template <class Entry, class DivergenceOfRow>
ShardDivergence divergence_of(const Entry* row, const Entry* reference, int64_t num_columns, const Mass& mass,
                              const Mass& mass_ref, double inverse, DivergenceOfRow divergence_of_row) {
  if (!mass_ref.exists) return {0.0, -INFINITY};
  RowPair pair{static_cast<float>(inverse),
               static_cast<float>(mass.max),
               static_cast<float>(mass.log_total),
               static_cast<float>(mass_ref.max),
               static_cast<float>(mass_ref.log_total),
               0.0f,
               false};
  // Of the rounded log totals, by which the row is normalised: what that costs shows in the excess.
  double rho = (mass_ref.max - mass.max) * inverse + pair.log_total_ref - pair.log_total;
  if (!mass.exists || std::isnan(rho)) return {mass.exists ? rho : 0.0, rho};
  pair.rho = static_cast<float>(rho);
  pair.is_rho_small = std::abs(rho) < kSmallRho;
  if (pair.is_rho_small) rho = pair.rho;
  const RowDivergence found = divergence_of_row(row, reference, num_columns, pair);
  const double correction = std::log1p(found.excess);
  return {found.kl - (found.excess - correction), rho + correction};
}

template <class Entry, class DivergenceOfRow>
void fill_divergence(const Tensor& logits, const Tensor& reference, const Tensor& partial,
                     const Tensor& reference_partial, double inverse, DivergenceOfRow divergence_of_row,
                     float* to) {
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  const int64_t stride = logits.stride(0), reference_stride = reference.stride(0);
  const int64_t partial_stride = partial.stride(0), reference_partial_stride = reference_partial.stride(0);
  const auto* rows = static_cast<const Entry*>(logits.const_data_ptr());
  const auto* references = static_cast<const Entry*>(reference.const_data_ptr());
  const auto* partials = partial.const_data_ptr<float>();
  const auto* reference_partials = reference_partial.const_data_ptr<float>();
  torch::stable::parallel_for(0, num_rows, rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Mass mass(partials + n, partial_stride);
      const Mass mass_ref(reference_partials + n, reference_partial_stride);
      const ShardDivergence found =
          divergence_of(rows + n * stride, references + n * reference_stride, num_columns, mass, mass_ref,
                        inverse, divergence_of_row);
      to[n] = static_cast<float>(found.kl);
      const float rounded = static_cast<float>(found.rho);
      to[num_rows + n] = rounded;
      to[2 * num_rows + n] = std::isfinite(rounded) ? static_cast<float>(found.rho - rounded) : 0.0f;
    }
  });
}

void check_partial(const Tensor& partial, const char* name, int64_t num_rows) {
  check_rows(partial, name);
  check_type(partial, name, {ScalarType::Float});
  if (partial.size(0) < 3 || partial.size(1) != num_rows) {
    throw std::runtime_error(std::string(name) + " must have shape [3 or more, " + std::to_string(num_rows) +
                             "], got " + shape_text(shape_of(partial)));
  }
}

}  // namespace

Tensor kl_partial(Tensor logits, Tensor reference, Tensor partial, Tensor reference_partial,
                  double inv_temperature) {
  check_logits(logits, "logits");
  check_reference(logits, reference);
  check_partial(partial, "partial", logits.size(0));
  check_partial(reference_partial, "reference_partial", logits.size(0));
  Tensor result = torch::stable::new_empty(partial, {3, logits.size(0)});
  auto* to = result.mutable_data_ptr<float>();
  const RowKernels& kernels = row_kernels();
  if (logits.scalar_type() == ScalarType::Float) {
    fill_divergence<float>(logits, reference, partial, reference_partial, inv_temperature,
                           kernels.divergence_float, to);
  } else {
    fill_divergence<uint16_t>(logits, reference, partial, reference_partial, inv_temperature,
                              kernels.divergence_bfloat16, to);
  }
  return result;
}

}  // namespace megaent
