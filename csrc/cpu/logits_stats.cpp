// Statistics of every row of logits, and their combination over vocabulary shards.
// The quantities and layouts are those of megaent/ops/reference.py.
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "ops.h"
#include "row_kernels.h"
#include "rows.h"

namespace megaent {
namespace {

constexpr int64_t kPartialRows = 5;  // max, count, below, weighted, target's logit
constexpr int64_t kMomentRows = 2;   // square, second

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

}  // namespace megaent
