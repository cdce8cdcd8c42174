// The gradient of logits from those of log-probability, entropy and the divergence from a reference.
// The formula and the layouts are those of megaent/ops/reference.py and megaent/ops/divergence.py.
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "ops.h"
#include "row_kernels.h"
#include "rows.h"

namespace megaent {
namespace {

void set_entry(float& entry, double value) { entry = static_cast<float>(value); }
void set_entry(uint16_t& entry, double value) {
  const float rounded = static_cast<float>(value);
  if (std::isnan(rounded)) {
    entry = 0x7fc0;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  entry = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Gradients that are none, and a divergence that is not asked for, count as 0.
struct Given {
  Tensor target, stats;
  std::optional<Tensor> grad_log_prob, grad_entropy;
  std::optional<Tensor> reference, kl_stats, grad_kl;
  int64_t vocab_start;
  double inv_temperature;
};

// What one row's gradient is made of, in fp64.
struct Row {
  double inverse, entropy, max, log_total;
  double kl = 0.0, rho = 0.0;
  double g_log_prob = 0.0, g_entropy = 0.0, g_kl = 0.0;

  RowGradient vector() const {
    const double constant = -inverse * (g_log_prob + g_entropy * entropy + g_kl * kl);
    return {static_cast<float>(inverse),  static_cast<float>(max),
            static_cast<float>(log_total), static_cast<float>(constant),
            static_cast<float>(-inverse * g_entropy), static_cast<float>(rho),
            static_cast<float>(inverse * g_kl)};
  }

  // Of the target: 1 - p without cancellation; at p = 0 the other terms are 0.
  double at_target(double z, double z_ref) const {
    const double log_p = (z - max) * inverse - log_total;
    const double p = std::exp(log_p);
    double others = 0.0;
    if (!(p == 0.0)) others = p * (g_kl * ((z - z_ref) * inverse + rho - kl) - g_entropy * (log_p + entropy));
    return inverse * (others - g_log_prob * std::expm1(log_p));
  }
};

class Rows {
 public:
  explicit Rows(const Given& given) : given_(given), stats_(given.stats.const_data_ptr<float>()) {
    stats_stride_ = given.stats.stride(0);
    if (given.grad_log_prob) log_prob_.emplace(*given.grad_log_prob);
    if (given.grad_entropy) entropy_.emplace(*given.grad_entropy);
    if (!given.reference) return;
    kl_.emplace(*given.grad_kl);
    kl_stats_ = given.kl_stats->const_data_ptr<float>();
    kl_stride_ = given.kl_stats->stride(0);
  }

  Row operator[](int64_t n) const {
    Row row{given_.inv_temperature, stats_[stats_stride_ + n], stats_[2 * stats_stride_ + n],
            stats_[3 * stats_stride_ + n]};
    if (log_prob_) row.g_log_prob = (*log_prob_)[n];
    if (entropy_) row.g_entropy = (*entropy_)[n];
    if (!kl_) return row;
    row.g_kl = (*kl_)[n];
    row.kl = kl_stats_[n];
    row.rho = kl_stats_[kl_stride_ + n];
    return row;
  }

 private:
  const Given& given_;
  const float *stats_, *kl_stats_ = nullptr;
  int64_t stats_stride_, kl_stride_ = 0;
  std::optional<Column<float>> log_prob_, entropy_, kl_;
};

template <class Entry, class Backward>
void fill_gradient(const Tensor& logits, const Given& given, Backward backward, const Tensor& out) {
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  const int64_t stride = logits.stride(0), out_stride = out.stride(0);
  const auto* entries = static_cast<const Entry*>(logits.const_data_ptr());
  const auto* references =
      given.reference ? static_cast<const Entry*>(given.reference->const_data_ptr()) : nullptr;
  const int64_t reference_stride = given.reference ? given.reference->stride(0) : 0;
  auto* grads = static_cast<Entry*>(out.mutable_data_ptr());
  const Column<int64_t> targets(given.target);
  const Rows rows(given);
  torch::stable::parallel_for(0, num_rows, rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Row row = rows[n];
      const Entry* from = entries + n * stride;
      const Entry* reference = references ? references + n * reference_stride : nullptr;
      Entry* to = grads + n * out_stride;
      const int64_t column = targets[n] - given.vocab_start;
      const bool is_here = given.grad_log_prob && column >= 0 && column < num_columns;
      // Before the row is written, which may be the same memory.
      const double z = is_here ? float_of(from[column]) : 0.0f;
      const double z_ref = is_here && reference ? float_of(reference[column]) : 0.0f;
      backward(from, reference, to, num_columns, row.vector());
      if (is_here) set_entry(to[column], row.at_target(z, z_ref));
    }
  });
}

void check_divergence(const Tensor& logits, const Given& given) {
  const bool has_reference = given.reference.has_value();
  if (given.kl_stats.has_value() != has_reference || given.grad_kl.has_value() != has_reference) {
    throw std::runtime_error("reference, kl_stats and grad_kl must be given together, got some of them");
  }
  if (!has_reference) return;
  check_reference(logits, *given.reference);
  check_rows(*given.kl_stats, "kl_stats");
  check_type(*given.kl_stats, "kl_stats", {ScalarType::Float});
  check_shape(*given.kl_stats, "kl_stats", {2, logits.size(0)});
}

void check_given(const Tensor& logits, const Given& given, const Tensor& out) {
  check_batch(logits, given.target);
  check_rows(given.stats, "stats");
  check_type(given.stats, "stats", {ScalarType::Float});
  if (given.stats.size(0) < 4 || given.stats.size(1) != logits.size(0)) {
    throw std::runtime_error("stats must have shape [4 or more, " + std::to_string(logits.size(0)) +
                             "], got " + shape_text(shape_of(given.stats)));
  }
  check_divergence(logits, given);
  for (const auto& [grad, name] : {std::pair(&given.grad_log_prob, "grad_log_prob"),
                                   {&given.grad_entropy, "grad_entropy"},
                                   {&given.grad_kl, "grad_kl"}}) {
    if (!grad->has_value()) continue;
    check_shape(**grad, name, {logits.size(0)});
    check_type(**grad, name, {ScalarType::Float});
  }
  check_rows(out, "out");
  check_shape(out, "out", shape_of(logits));
  check_type(out, "out", {logits.scalar_type()});
}

}  // namespace

void logits_stats_backward(Tensor logits, Tensor target, Tensor stats, std::optional<Tensor> grad_log_prob,
                           std::optional<Tensor> grad_entropy, std::optional<Tensor> reference,
                           std::optional<Tensor> kl_stats, std::optional<Tensor> grad_kl, int64_t vocab_start,
                           double inv_temperature, Tensor out) {
  const Given given{target,   stats,   grad_log_prob, grad_entropy,   reference,
                    kl_stats, grad_kl, vocab_start,   inv_temperature};
  check_given(logits, given, out);
  const RowKernels& kernels = row_kernels();
  if (logits.scalar_type() == ScalarType::Float) {
    fill_gradient<float>(logits, given, kernels.backward_float, out);
  } else {
    fill_gradient<uint16_t>(logits, given, kernels.backward_bfloat16, out);
  }
}

}  // namespace megaent
