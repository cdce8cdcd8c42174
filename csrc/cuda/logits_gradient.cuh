// The gradient of rows of logits on a GPU: device code alone, without torch.
//
// 1/temperature (g_lp (1_y - p) - g_H p (log p + H)), entry by entry. Bytes moved: 2 * V * size a row.
#pragma once

#include "row_vectors.cuh"

namespace megaent {

constexpr int64_t kGradientVectors = kStride;  // of one block

struct GradientArguments {
  const int64_t* target;       // [N], ids in the whole vocabulary
  const float* stats;          // [4 or more, N]: log_prob, entropy, max, log_total
  const float* grad_log_prob;  // [N] or null
  const float* grad_entropy;   // [N] or null
  int64_t num_columns;         // V
  int64_t row_stride;          // of logits; all strides in entries
  int64_t out_stride;          // of out
  int64_t target_stride;
  int64_t stats_stride;
  int64_t grad_log_prob_stride;
  int64_t grad_entropy_stride;
  int64_t vocab_start;  // id of column 0
  uint32_t num_blocks;  // that share a row
  float inv_temperature;
  float scale;  // log2(e) / temperature
};

// With log2 p = (z - max) * scale - log_total: an entry that is not the target's becomes
// -p (constant + slope log2 p).
struct RowGradient {
  int64_t target;  // its column, or -1 where another shard has it or nothing pulls
  float max, log_total, entropy, scale;
  float of_log_prob, of_entropy;  // the incoming gradients over temperature
  float constant, slope;

  __device__ RowGradient(const GradientArguments& given, int64_t row) {
    const float* stats = given.stats + row;
    entropy = stats[given.stats_stride];
    max = stats[2 * given.stats_stride];
    log_total = stats[3 * given.stats_stride] / kNatsPerBit;
    scale = given.scale;
    const float* g = given.grad_log_prob;
    const float* h = given.grad_entropy;
    of_log_prob = g == nullptr ? 0.0f : g[row * given.grad_log_prob_stride] * given.inv_temperature;
    of_entropy = h == nullptr ? 0.0f : h[row * given.grad_entropy_stride] * given.inv_temperature;
    constant = fmaf(of_entropy, entropy, of_log_prob);
    slope = of_entropy * kNatsPerBit;
    const int64_t column = given.target[row * given.target_stride] - given.vocab_start;
    target = g != nullptr && column >= 0 && column < given.num_columns ? column : -1;
  }

  __device__ float log2_p(float entry) const { return bits_below(entry, max, scale) - log_total; }

  __device__ float of_entry(float entry) const {
    const float whole = log2_p(entry), x = fmaxf(whole, kNothing);
    return -exp2f(whole) * fmaf(slope, x, constant);
  }

  // 1 - p without cancellation.
  __device__ float of_target(float entry) const {
    const float log_p = log2_p(entry) * kNatsPerBit, p = expf(log_p);
    const float centred = p > 0.0f ? p * (log_p + entropy) : 0.0f;
    return -fmaf(of_log_prob, expm1f(log_p), of_entropy * centred);
  }
};

// The gradient of the vector that begins at `column`.
template <class Entry>
__device__ inline void differentiate(Vector<Entry>& vector, int64_t column, const RowGradient& row) {
  const int64_t target = row.target - column;
  const bool has_target = row.target >= 0 && target >= 0 && target < kEntries<Entry>;
  float at_target = 0.0f;
  if (has_target) {
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; ++k) {
      if (k == target) at_target = to_float(vector.entries[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < kEntries<Entry>; ++k) {
    set_entry(vector.entries[k], row.of_entry(to_float(vector.entries[k])));
  }
  if (!has_target) return;
  const float of_target = row.of_target(at_target);
#pragma unroll
  for (int k = 0; k < kEntries<Entry>; ++k) {
    if (k == target) set_entry(vector.entries[k], of_target);
  }
}

// kGradientVectors of one row a block. `out` may be `logits`: each thread writes what it alone has read.
template <class Entry, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    logits_stats_backward_kernel(const Entry* logits, Entry* out, GradientArguments given) {
  constexpr int64_t kSize = kEntries<Entry>;
  const int64_t row = blockIdx.x / given.num_blocks;
  const int64_t num_vectors = given.num_columns / kSize;
  const int64_t first = (blockIdx.x % given.num_blocks) * kGradientVectors + threadIdx.x;
  const Entry* from = logits + row * given.row_stride;
  Entry* to = out + row * given.out_stride;
  const RowGradient how(given, row);
  Vector<Entry> vectors[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = first + u * kThreads;
    if (i < num_vectors) vectors[u] = load_vector<kAligned>(from + i * kSize);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = first + u * kThreads;
    if (i < num_vectors) {
      differentiate(vectors[u], i * kSize, how);
      store_vector<kAligned>(to + i * kSize, vectors[u]);
    } else if (i == num_vectors) {
      const int left = static_cast<int>(given.num_columns - num_vectors * kSize);
      Vector<Entry> tail = load_tail(from + i * kSize, left);
      differentiate(tail, i * kSize, how);
#pragma unroll
      for (int k = 0; k < kEntries<Entry>; ++k) {
        if (k < left) to[i * kSize + k] = tail.entries[k];
      }
    }
  }
}

}  // namespace megaent
