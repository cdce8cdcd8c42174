// Statistics of every row of logits, their combination over vocabulary shards, and the gradient.
// The quantities and layouts are those of megaent/ops/reference.py.
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "check.h"
#include "ops.h"
#include "row_kernels.h"

namespace megaent {
namespace {

constexpr int64_t kPartialRows = 5;  // max, count, below, weighted, target's logit
constexpr int64_t kMomentRows = 2;   // square, second

// One dimension of a tensor, at any stride: gradients may be expanded, statistics sliced.
template <class T>
class Column {
 public:
  explicit Column(const Tensor& tensor) : data_(tensor.const_data_ptr<T>()), stride_(tensor.stride(0)) {}
  T operator[](int64_t i) const { return data_[i * stride_]; }

 private:
  const T* data_;
  int64_t stride_;
};

// Rows of few columns are handed to a thread by the dozen.
int64_t rows_per_task(int64_t num_columns) { return 1 + (int64_t{1} << 15) / (num_columns + 1); }

float float_of(float entry) { return entry; }
float float_of(uint16_t entry) {
  const uint32_t bits = static_cast<uint32_t>(entry) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

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

void check_batch(const Tensor& logits, const Tensor& target) {
  check_rows(logits, "logits");
  check_type(logits, "logits", {ScalarType::Float, ScalarType::BFloat16});
  check_type(target, "target", {ScalarType::Long});
  check_shape(target, "target", {logits.size(0)});
}

template <class Entry, class StatsOfRow>
void fill_partial(const Tensor& logits, const Tensor& target, int64_t vocab_start, double inv_temperature,
                  bool moments, StatsOfRow stats_of_row, float* partial) {
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1), stride = logits.stride(0);
  const auto* rows = static_cast<const Entry*>(logits.const_data_ptr());
  const Column<int64_t> targets(target);
  torch::stable::parallel_for(0, num_rows, rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Entry* row = rows + n * stride;
      const RowStats found = stats_of_row(row, num_columns, static_cast<float>(inv_temperature), moments);
      const int64_t column = targets[n] - vocab_start;
      const bool is_here = column >= 0 && column < num_columns;
      float* to = partial + n;
      to[0] = found.max;
      to[num_rows] = static_cast<float>(found.count);
      to[2 * num_rows] = static_cast<float>(found.below);
      to[3 * num_rows] = static_cast<float>(found.weighted);
      to[4 * num_rows] = is_here ? float_of(row[column]) : 0.0f;
      if (moments) {
        to[5 * num_rows] = static_cast<float>(found.square);
        to[6 * num_rows] = static_cast<float>(found.second);
      }
    }
  });
}

// One token's statistics over all shards, in the order of the shards, in fp64.
struct Whole {
  double max = -INFINITY, count = 0.0, below = 0.0, weighted = 0.0, logit = 0.0, square = 0.0, second = 0.0;

  void add(const float* shard, int64_t stride, double inv_temperature, bool moments) {
    logit += static_cast<double>(shard[4 * stride]);
    const double shard_max = shard[0];
    if (shard_max == -INFINITY) return;  // it has no probability, and (-inf) - max must not reach a product
    const double shift = (shard_max - max) * inv_temperature;
    const double scale = std::exp(shift);
    const double by = scale > 0.0 ? shift : 0.0;
    const double c = shard[stride], s = shard[2 * stride], t = shard[3 * stride];
    const bool is_top = shard_max == max;
    count += is_top ? c : 0.0;
    below += is_top ? s : scale * (c + s);
    weighted += scale * (t + by * (c + s));
    if (!moments) return;
    square += scale * scale * static_cast<double>(shard[5 * stride]);
    second += scale * (static_cast<double>(shard[6 * stride]) + by * (2.0 * t + by * (c + s)));
  }
};

void store_stats(const Whole& whole, double inv_temperature, bool moments, float* to, int64_t stride) {
  const double total = whole.count + whole.below;
  // count - 1 is exact; below must not be rounded against it.
  const double log_total = std::log1p(whole.below + (whole.count - 1.0));
  const double mean_x = whole.weighted / total;
  to[0] = static_cast<float>((whole.logit - whole.max) * inv_temperature - log_total);
  to[stride] = static_cast<float>(log_total - mean_x);
  to[2 * stride] = static_cast<float>(whole.max);
  to[3 * stride] = static_cast<float>(log_total);
  if (!moments) return;
  to[4 * stride] = static_cast<float>(whole.square / (total * total));
  to[5 * stride] = static_cast<float>(whole.second / total - mean_x * mean_x);
}

struct Gradients {
  Tensor target, stats;
  std::optional<Tensor> log_prob, entropy;
  int64_t vocab_start;
  double inv_temperature;
};

template <class Entry, class Backward>
void fill_gradient(const Tensor& logits, const Gradients& given, Backward backward, const Tensor& out) {
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  const int64_t stride = logits.stride(0), out_stride = out.stride(0), stats_stride = given.stats.stride(0);
  const auto* rows = static_cast<const Entry*>(logits.const_data_ptr());
  auto* grads = static_cast<Entry*>(out.mutable_data_ptr());
  const auto* stats = given.stats.const_data_ptr<float>();
  const Column<int64_t> targets(given.target);
  std::optional<Column<float>> of_log_prob, of_entropy;
  if (given.log_prob) of_log_prob.emplace(*given.log_prob);
  if (given.entropy) of_entropy.emplace(*given.entropy);
  const double inverse = given.inv_temperature;
  torch::stable::parallel_for(0, num_rows, rows_per_task(num_columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const double entropy = stats[stats_stride + n], max = stats[2 * stats_stride + n];
      const double log_total = stats[3 * stats_stride + n];
      const double g = of_log_prob ? (*of_log_prob)[n] : 0.0f, h = of_entropy ? (*of_entropy)[n] : 0.0f;
      const int64_t column = targets[n] - given.vocab_start;
      const bool is_here = of_log_prob && column >= 0 && column < num_columns;
      // Read before the row is written, which may be the same memory.
      const double log_p = is_here ? (float_of(rows[n * stride + column]) - max) * inverse - log_total : 0.0;
      const RowGradient how{static_cast<float>(inverse), static_cast<float>(max),
                            static_cast<float>(log_total), static_cast<float>(-inverse * (g + h * entropy)),
                            static_cast<float>(-inverse * h)};
      backward(rows + n * stride, grads + n * out_stride, num_columns, how);
      if (!is_here) continue;
      // 1 - p without cancellation; p log p is 0 at p = 0.
      const double p = std::exp(log_p);
      const double centred = p > 0.0 ? p * (log_p + entropy) : 0.0;
      set_entry(grads[n * out_stride + column], inverse * (-g * std::expm1(log_p) - h * centred));
    }
  });
}

void check_gradients(const Tensor& logits, const Gradients& given, const Tensor& out) {
  check_batch(logits, given.target);
  check_rows(given.stats, "stats");
  check_type(given.stats, "stats", {ScalarType::Float});
  if (given.stats.size(0) < 4 || given.stats.size(1) != logits.size(0)) {
    throw std::runtime_error("stats must have shape [4 or more, " + std::to_string(logits.size(0)) +
                             "], got " + shape_text(shape_of(given.stats)));
  }
  for (const auto& [grad, name] :
       {std::pair(&given.log_prob, "grad_log_prob"), {&given.entropy, "grad_entropy"}}) {
    if (!grad->has_value()) continue;
    check_shape(**grad, name, {logits.size(0)});
    check_type(**grad, name, {ScalarType::Float});
  }
  check_rows(out, "out");
  check_shape(out, "out", shape_of(logits));
  check_type(out, "out", {logits.scalar_type()});
}

}  // namespace

Tensor logits_stats(Tensor logits, Tensor target, int64_t vocab_start, double inv_temperature, bool moments) {
  check_batch(logits, target);
  const int64_t num_rows = kPartialRows + (moments ? kMomentRows : 0);
  Tensor partial = torch::stable::new_empty(logits, {num_rows, logits.size(0)}, ScalarType::Float);
  auto* to = partial.mutable_data_ptr<float>();
  const RowKernels& kernels = row_kernels();
  if (logits.scalar_type() == ScalarType::Float) {
    fill_partial<float>(logits, target, vocab_start, inv_temperature, moments, kernels.stats_float, to);
  } else {
    fill_partial<uint16_t>(logits, target, vocab_start, inv_temperature, moments, kernels.stats_bfloat16, to);
  }
  return partial;
}

Tensor stats_combine(std::vector<Tensor> partials, double inv_temperature) {
  if (partials.empty()) throw std::runtime_error("partials must hold one tensor or more, got none");
  for (Tensor& partial : partials) {
    check_rows(partial, "every partial");
    check_type(partial, "every partial", {ScalarType::Float});
    check_shape(partial, "every partial", shape_of(partials[0]));
  }
  const int64_t num_tokens = partials[0].size(1);
  const bool moments = partials[0].size(0) == kPartialRows + kMomentRows;
  Tensor stats = torch::stable::new_empty(partials[0], {moments ? 6 : 4, num_tokens});
  auto* to = stats.mutable_data_ptr<float>();
  for (int64_t n = 0; n < num_tokens; ++n) {
    Whole whole;
    for (const Tensor& partial : partials) {
      const double max = partial.const_data_ptr<float>()[n];
      if (!(max <= whole.max)) whole.max = max;
    }
    for (const Tensor& partial : partials) {
      whole.add(partial.const_data_ptr<float>() + n, partial.stride(0), inv_temperature, moments);
    }
    store_stats(whole, inv_temperature, moments, to + n, num_tokens);
  }
  return stats;
}

void logits_stats_backward(Tensor logits, Tensor target, Tensor stats, std::optional<Tensor> grad_log_prob,
                           std::optional<Tensor> grad_entropy, int64_t vocab_start, double inv_temperature,
                           Tensor out) {
  const Gradients given{target, stats, grad_log_prob, grad_entropy, vocab_start, inv_temperature};
  check_gradients(logits, given, out);
  const RowKernels& kernels = row_kernels();
  if (logits.scalar_type() == ScalarType::Float) {
    fill_gradient<float>(logits, given, kernels.backward_float, out);
  } else {
    fill_gradient<uint16_t>(logits, given, kernels.backward_bfloat16, out);
  }
}

}  // namespace megaent
