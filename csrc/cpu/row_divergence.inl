// The sums of megaent/ops/divergence.py over one row of two policies' logits, in fp32 lanes; blocks are added
// up in fp64. Bytes moved per row: 2 * V * size.
#pragma once

#include "row_kernels.h"
#include "row_lanes.inl"

namespace megaent {
namespace {

// d + exp(-d) - 1 for |d| <= 1/2: its series, relative error 5e-8.
template <class Lanes>
inline typename Lanes::Floats bend_of(typename Lanes::Floats d) {
  auto h = Lanes::set(1.0f / 40320.0f);
  h = Lanes::fma(h, d, Lanes::set(-1.0f / 5040.0f));
  h = Lanes::fma(h, d, Lanes::set(1.0f / 720.0f));
  h = Lanes::fma(h, d, Lanes::set(-1.0f / 120.0f));
  h = Lanes::fma(h, d, Lanes::set(1.0f / 24.0f));
  h = Lanes::fma(h, d, Lanes::set(-1.0f / 6.0f));
  h = Lanes::fma(h, d, Lanes::set(0.5f));
  return Lanes::mul(Lanes::mul(d, d), h);
}

struct DivergenceBlock {
  float kl[kLanes], excess[kLanes];
};

template <class Lanes, class Entry>
void divergence_part(const Entry* entries, const Entry* reference, int64_t count, int part,
                     const RowPair& pair, DivergenceBlock& sums) {
  using Floats = typename Lanes::Floats;
  const Floats inverse = Lanes::set(pair.inv_temperature), rho = Lanes::set(pair.rho);
  const Floats max = Lanes::set(pair.max), log_total = Lanes::set(pair.log_total);
  const Floats max_ref = Lanes::set(pair.max_ref), log_total_ref = Lanes::set(pair.log_total_ref);
  const Floats zero = Lanes::set(0.0f), lowest = Lanes::set(kLowest), half = Lanes::set(0.5f);
  Floats kl = zero, excess = zero;
  const auto step = [&](Floats z, Floats z_ref) {
    const Floats log_p = Lanes::sub(Lanes::mul(Lanes::sub(z, max), inverse), log_total);
    const Floats log_q = Lanes::sub(Lanes::mul(Lanes::sub(z_ref, max_ref), inverse), log_total_ref);
    const auto has_no_p = Lanes::less(log_p, lowest), has_no_q = Lanes::less(log_q, lowest);
    const Floats p = Lanes::zero_where(has_no_p, exp_of_negative<Lanes>(Lanes::max(lowest, log_p)));
    const Floats q = Lanes::zero_where(has_no_q, exp_of_negative<Lanes>(Lanes::max(lowest, log_q)));
    // NaN where both are -inf.
    const Floats d =
        pair.is_rho_small ? Lanes::fma(Lanes::sub(z, z_ref), inverse, rho) : Lanes::sub(log_p, log_q);
    const auto is_near = Lanes::less(Lanes::max(d, Lanes::sub(zero, d)), half);
    const Floats bend = bend_of<Lanes>(d);
    const Floats above = Lanes::pick(is_near, Lanes::mul(p, Lanes::sub(bend, d)), Lanes::sub(q, p));
    const Floats far = Lanes::add(Lanes::zero_where(has_no_p, Lanes::mul(p, d)), above);
    kl = Lanes::add(kl, Lanes::pick(is_near, Lanes::mul(p, bend), far));
    excess = Lanes::add(excess, above);
  };
  const int64_t whole = count - count % kLanes;
  for (int64_t i = part; i < whole; i += kLanes) step(Lanes::load(entries + i), Lanes::load(reference + i));
  if (whole < count) {
    const Tail<Entry> tail(entries + whole, count - whole), tail_ref(reference + whole, count - whole);
    step(Lanes::load(tail.entries + part), Lanes::load(tail_ref.entries + part));
  }
  Lanes::store(sums.kl + part, kl);
  Lanes::store(sums.excess + part, excess);
}

template <class Lanes, class Entry>
RowDivergence divergence_row(const Entry* row, const Entry* reference, int64_t num_columns,
                             const RowPair& pair) {
  RowDivergence found{0.0, 0.0};
  for (int64_t start = 0; start < num_columns; start += kBlock) {
    const int64_t left = num_columns - start;
    const int64_t count = left < kBlock ? left : kBlock;
    DivergenceBlock sums;
    for (int part = 0; part < kLanes; part += Lanes::kWidth) {
      divergence_part<Lanes>(row + start, reference + start, count, part, pair, sums);
    }
    found.kl += sum_of(sums.kl);
    found.excess += sum_of(sums.excess);
  }
  return found;
}

}  // namespace
}  // namespace megaent
