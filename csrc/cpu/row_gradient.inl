// The gradient of one row, written over it or elsewhere.
// Bytes moved per row: 2 * V * size, and half as many again with a reference.
#pragma once

#include "row_kernels.h"
#include "row_lanes.inl"

namespace megaent {
namespace {

// p (constant + slope log p), and with a reference divergence * p * d more, where d = log p - log q.
template <class Lanes, class Entry, bool with_reference>
void gradient_of(const Entry* row, const Entry* reference, Entry* grad, int64_t num_columns,
                 const RowGradient& how) {
  using Floats = typename Lanes::Floats;
  const Floats max = Lanes::set(how.max), inverse = Lanes::set(how.inv_temperature);
  const Floats log_total = Lanes::set(how.log_total), lowest = Lanes::set(kLowest);
  const Floats constant = Lanes::set(how.constant), slope = Lanes::set(how.slope);
  const Floats rho = Lanes::set(how.rho), divergence = Lanes::set(how.divergence);
  const auto gradient = [&](Floats z, Floats z_ref) {
    const Floats log_p = Lanes::sub(Lanes::mul(Lanes::sub(z, max), inverse), log_total);
    const Floats x = Lanes::max(lowest, log_p);
    const auto is_nothing = Lanes::less(log_p, lowest);
    const Floats p = Lanes::zero_where(is_nothing, exp_of_negative<Lanes>(x));
    Floats factor = Lanes::fma(slope, x, constant);
    if constexpr (with_reference) {
      const Floats d = Lanes::fma(Lanes::sub(z, z_ref), inverse, rho);
      factor = Lanes::zero_where(is_nothing, Lanes::fma(divergence, d, factor));  // d may be (-inf) - (-inf)
    }
    return Lanes::mul(p, factor);
  };
  const auto load_reference = [&](int64_t i, Floats z) {
    if constexpr (with_reference) return Lanes::load(reference + i);
    return z;
  };
  constexpr int64_t kWidth = Lanes::kWidth;
  int64_t i = 0;
  for (; i + kWidth <= num_columns; i += kWidth) {
    const Floats z = Lanes::load(row + i);
    Lanes::store(grad + i, gradient(z, load_reference(i, z)));
  }
  if (i == num_columns) return;
  Tail<Entry> tail(row + i, num_columns - i);
  const Floats z = Lanes::load(tail.entries);
  Floats z_ref = z;
  if constexpr (with_reference) z_ref = Lanes::load(Tail<Entry>(reference + i, num_columns - i).entries);
  Lanes::store(tail.entries, gradient(z, z_ref));
  memcpy(grad + i, tail.entries, static_cast<size_t>(num_columns - i) * sizeof(Entry));
}

template <class Lanes, class Entry>
void backward_row(const Entry* row, const Entry* reference, Entry* grad, int64_t num_columns,
                  const RowGradient& how) {
  if (reference == nullptr) {
    gradient_of<Lanes, Entry, false>(row, reference, grad, num_columns, how);
  } else {
    gradient_of<Lanes, Entry, true>(row, reference, grad, num_columns, how);
  }
}

}  // namespace
}  // namespace megaent
