// Partial statistics of several spans or shards made into one, in the order they are given: device code.
//
// The quantities are those of megaent/ops/reference.py. A thread owns a row and sums in fp64, which costs
// nothing beside reading the logits.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace megaent {

constexpr int kMaxParts = 128;
constexpr int kCombineThreads = 128;

// Partials that need not lie side by side; by value, as an argument of the kernel.
struct Parts {
  const float* first[kMaxParts];  // each [5 or 7, N]
  int64_t stride[kMaxParts];      // entries between two of its rows
  int num_parts;
};

struct Whole {
  double max = -INFINITY, count = 0.0, below = 0.0, weighted = 0.0, logit = 0.0, square = 0.0, second = 0.0;

  // A NaN is taken over; where a later part replaces it, its sums still make the row NaN.
  __device__ void see_max(double of_part) {
    if (!(of_part <= max)) max = of_part;
  }

  template <bool kMoments>
  __device__ void add(const float* part, int64_t stride, double inv_temperature) {
    logit += part[4 * stride];
    const double part_max = part[0];
    if (part_max == -INFINITY) return;  // it has no probability, and (-inf) - max must not reach a product
    const double shift = (part_max - max) * inv_temperature, scale = exp(shift);
    const double by = scale > 0.0 ? shift : 0.0;  // 0 times -inf would be NaN
    const double c = part[stride], s = part[2 * stride], t = part[3 * stride], total = c + s;
    count += part_max == max ? c : 0.0;
    below += part_max == max ? s : scale * total;
    weighted += scale * (t + by * total);
    if constexpr (kMoments) {
      square += scale * scale * static_cast<double>(part[5 * stride]);
      second += scale * (static_cast<double>(part[6 * stride]) + by * (2.0 * t + by * total));
    }
  }
};

template <bool kMoments>
__device__ inline Whole merge(const Parts& parts, int64_t row, double inv_temperature) {
  Whole whole;
  for (int i = 0; i < parts.num_parts; ++i) whole.see_max(parts.first[i][row]);
  for (int i = 0; i < parts.num_parts; ++i) {
    whole.add<kMoments>(parts.first[i] + row, parts.stride[i], inv_temperature);
  }
  return whole;
}

// The partial statistics [5 or 7, N] of a shard from those of its spans.
template <bool kMoments>
__global__ void __launch_bounds__(kCombineThreads)
    spans_merge_kernel(Parts parts, float* partial, int64_t num_rows, double inv_temperature) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (row >= num_rows) return;
  const Whole whole = merge<kMoments>(parts, row, inv_temperature);
  float* to = partial + row;
  to[0] = static_cast<float>(whole.max);
  to[num_rows] = static_cast<float>(whole.count);
  to[2 * num_rows] = static_cast<float>(whole.below);
  to[3 * num_rows] = static_cast<float>(whole.weighted);
  to[4 * num_rows] = static_cast<float>(whole.logit);
  if constexpr (kMoments) {
    to[5 * num_rows] = static_cast<float>(whole.square);
    to[6 * num_rows] = static_cast<float>(whole.second);
  }
}

// The statistics [4 or 6, N] of whole rows from the shards' partial ones.
template <bool kMoments>
__global__ void __launch_bounds__(kCombineThreads)
    stats_combine_kernel(Parts parts, float* stats, int64_t num_rows, double inv_temperature) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (row >= num_rows) return;
  const Whole whole = merge<kMoments>(parts, row, inv_temperature);
  const double total = whole.count + whole.below;
  // count - 1 is exact; below must not be rounded against it.
  const double log_total = log1p(whole.below + (whole.count - 1.0));
  const double mean_x = whole.weighted / total;
  float* to = stats + row;
  to[0] = static_cast<float>((whole.logit - whole.max) * inv_temperature - log_total);
  to[num_rows] = static_cast<float>(log_total - mean_x);
  to[2 * num_rows] = static_cast<float>(whole.max);
  to[3 * num_rows] = static_cast<float>(log_total);
  if constexpr (kMoments) {
    to[4 * num_rows] = static_cast<float>(whole.square / (total * total));
    to[5 * num_rows] = static_cast<float>(whole.second / total - mean_x * mean_x);
  }
}

}  // namespace megaent
