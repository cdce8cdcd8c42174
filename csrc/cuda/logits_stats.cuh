// Partial statistics of rows of logits on a GPU: device code alone, without torch.
//
// What they are is said in megaent/ops/reference.py. In here x = (z - max) / temperature is in bits, so that
// the processor's own 2^x serves; what is stored is in nats. exp2f is that instruction only under -ftz=true,
// and sums are rounded alike in every instantiation only under -fmad=false: scripts/build_cuda.
//
// A block owns a span of one row. Each of its threads keeps statistics of its own over vectors of 16 bytes;
// they meet once, at the end of the span. Which thread sees which entry, and in which order, depends on the
// number of columns alone: a row gives the same bits in any batch, at any alignment. Nothing is written by
// two threads. Bytes moved: V * size a row.
#pragma once

#include "row_vectors.cuh"

namespace megaent {

constexpr int kWarps = kThreads / 32;
constexpr int64_t kSpanVectors = 8 * kStride;  // of one block

// The rows of a partial, in bits; with `max` -inf all others are meaningless until `settle`.
struct Sums {
  float max = -INFINITY;
  float count = 0.0f;     // entries equal to the maximum
  float below = 0.0f;     // sum of 2^x over the others
  float weighted = 0.0f;  // sum of 2^x x
  float square = 0.0f;    // sum of 4^x over all; these two only with moments
  float second = 0.0f;    // sum of 2^x x^2
};

// Makes the sums relative to a larger maximum: all they held is now below it.
template <bool kMoments>
__device__ inline void raise_max(Sums& sums, float max, float scale) {
  const float shift = fmaxf(bits_below(sums.max, anchor_of(max), scale), kNothing);
  const float factor = exp2f(shift), total = sums.count + sums.below;
  if constexpr (kMoments) {
    sums.second = factor * fmaf(shift, fmaf(shift, total, 2.0f * sums.weighted), sums.second);
    sums.square *= factor * factor;
  }
  sums.weighted = factor * fmaf(shift, total, sums.weighted);
  sums.below = factor * total;
  sums.count = 0.0f;
  sums.max = max;
}

// The sums after a thread has seen more entries. Their own sums come first and are then added, so that a
// thread's hundreds of entries are not added up one by one.
template <bool kMoments, class Entry, int kVectors>
__device__ inline void absorb(Sums& sums, const Vector<Entry> (&vectors)[kVectors], float scale) {
  const float max = fmaxf(sums.max, largest(vectors)), anchor = anchor_of(max);
  if (max > sums.max) raise_max<kMoments>(sums, max, scale);
  Sums more;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float entries[kEntries<Entry>];
    unpack(vectors[i], entries);
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; ++k) {
      // fmaxf passes over NaN; the power keeps it, and `weighted` carries it on.
      const float whole = bits_below(entries[k], anchor, scale), x = fmaxf(whole, kNothing);
      const float power = exp2f(whole);
      if (entries[k] < max) {
        more.below += power;
      } else {
        more.count += 1.0f;
      }
      more.weighted = fmaf(power, x, more.weighted);
      if constexpr (kMoments) {
        more.square = fmaf(power, power, more.square);
        more.second = fmaf(power * x, x, more.second);
      }
    }
  }
  sums.count += more.count;
  sums.below += more.below;
  sums.weighted += more.weighted;
  if constexpr (kMoments) {
    sums.square += more.square;
    sums.second += more.second;
  }
}

// One thread's share of `num_columns` entries.
template <class Entry, bool kAligned, bool kMoments>
__device__ inline Sums sum_share(const Entry* span, int64_t num_columns, float scale) {
  constexpr int64_t kSize = kEntries<Entry>;
  const int64_t num_vectors = num_columns / kSize;
  Sums sums;
  int64_t i = threadIdx.x;
  for (; i + kStride - kThreads < num_vectors; i += kStride) {
    Vector<Entry> vectors[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) vectors[u] = load_vector<kAligned>(span + (i + u * kThreads) * kSize);
    absorb<kMoments>(sums, vectors, scale);
  }
  for (; i < num_vectors; i += kThreads) {
    const Vector<Entry> vectors[1] = {load_vector<kAligned>(span + i * kSize)};
    absorb<kMoments>(sums, vectors, scale);
  }
  const int left = static_cast<int>(num_columns - num_vectors * kSize);
  if (left > 0 && threadIdx.x == num_vectors % kThreads) {
    const Vector<Entry> vectors[1] = {load_tail(span + num_vectors * kSize, left)};
    absorb<kMoments>(sums, vectors, scale);
  }
  return sums;
}

// The largest of all threads' values, for every thread; passes over NaN.
__device__ inline float block_max(float value) {
  __shared__ float of_warp[kWarps];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) value = fmaxf(value, of_warp[warp]);
  return value;
}

// The sum of every value over all threads, for thread 0, always in the same order.
template <int kValues>
__device__ inline void block_sum(float (&values)[kValues]) {
  __shared__ float of_warp[kWarps][kValues];
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      values[v] += __shfl_xor_sync(0xffffffffu, values[v], distance);
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][v] = values[v];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    values[v] = of_warp[0][v];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) values[v] += of_warp[warp][v];
  }
}

// The sums of the whole block, in nats, for thread 0. Every thread's own are first made relative to the
// block's maximum, once; a thread whose entries are all -inf, or that has none, adds nothing.
template <bool kMoments>
__device__ inline Sums settle(Sums sums, float scale) {
  const float max = block_max(sums.max);
  if (max > sums.max) raise_max<kMoments>(sums, max, scale);
  if (max == -INFINITY) sums.count = 0.0f;
  if constexpr (kMoments) {
    float values[] = {sums.count, sums.below, sums.weighted, sums.square, sums.second};
    block_sum(values);
    return {
        max, values[0], values[1], kNatsPerBit * values[2], values[3], kNatsPerBit * kNatsPerBit * values[4]};
  } else {
    float values[] = {sums.count, sums.below, sums.weighted};
    block_sum(values);
    return {max, values[0], values[1], kNatsPerBit * values[2]};
  }
}

struct StatsArguments {
  const int64_t* target;  // [N], ids in the whole vocabulary
  float* partial;         // [num_spans, 5 or 7, N]: max, count, below, weighted, target's logit, moments
  int64_t num_rows;       // N
  int64_t num_columns;    // V
  int64_t row_stride;     // entries
  int64_t target_stride;  // entries
  int64_t vocab_start;    // id of column 0
  uint32_t num_spans;
  float scale;  // log2(e) / temperature
};

// One span of one row a block.
template <class Entry, bool kAligned, bool kMoments>
__global__ void __launch_bounds__(kThreads) logits_stats_kernel(const Entry* logits, StatsArguments given) {
  constexpr int64_t kSpanColumns = kSpanVectors * kEntries<Entry>;
  const int64_t row = blockIdx.x / given.num_spans, span = blockIdx.x % given.num_spans;
  const int64_t start = span * kSpanColumns, left = given.num_columns - start;
  const int64_t count = left < kSpanColumns ? left : kSpanColumns;
  const Entry* from = logits + row * given.row_stride + start;
  const Sums sums =
      settle<kMoments>(sum_share<Entry, kAligned, kMoments>(from, count, given.scale), given.scale);
  if (threadIdx.x != 0) return;
  const int64_t column = given.target[row * given.target_stride] - given.vocab_start - start;
  const bool is_here = column >= 0 && column < count;
  float* to = given.partial + span * (kMoments ? 7 : 5) * given.num_rows + row;
  // The maximum passes over NaN and this sum does not; a power of NaN may not be in `below`.
  const bool is_number = sums.weighted == sums.weighted;
  to[0] = is_number ? sums.max : sums.weighted;
  to[given.num_rows] = sums.count;
  to[2 * given.num_rows] = sums.below;
  to[3 * given.num_rows] = sums.weighted;
  to[4 * given.num_rows] = is_here ? to_float(from[column]) : 0.0f;
  if constexpr (kMoments) {
    to[5 * given.num_rows] = sums.square;
    to[6 * given.num_rows] = sums.second;
  }
}

}  // namespace megaent
