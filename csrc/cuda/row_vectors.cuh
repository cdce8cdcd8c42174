// Rows of logits as a GPU's threads take them: in vectors of 16 bytes. Device code alone, without torch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace megaent {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
constexpr int kUnroll = 4;                       // vectors that a thread loads before it uses the first
constexpr int64_t kStride = kThreads * kUnroll;  // vectors that a block loads at once

template <class Entry>
constexpr int kEntries = kVectorBytes / static_cast<int>(sizeof(Entry));

template <class Entry>
struct alignas(kVectorBytes) Vector {
  Entry entries[kEntries<Entry>];
};

__device__ inline float to_float(float entry) { return entry; }
__device__ inline float to_float(__nv_bfloat16 entry) { return __bfloat162float(entry); }
__device__ inline float to_float(__half entry) { return __half2float(entry); }
__device__ inline void set_entry(float& entry, float value) { entry = value; }
__device__ inline void set_entry(__nv_bfloat16& entry, float value) { entry = __float2bfloat16_rn(value); }
__device__ inline void set_entry(__half& entry, float value) { entry = __float2half_rn(value); }

// The two entries of 32 bits. By bits and not by __bfloat162float, which costs a step more for the second.
__device__ inline float2 to_floats(__nv_bfloat162 pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
__device__ inline float2 to_floats(__half2 pair) { return __half22float2(pair); }
template <class Entry>
struct PairOf;
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};
template <>
struct PairOf<__half> {
  using Type = __half2;
};

template <class Entry>
__device__ inline void unpack(const Vector<Entry>& vector, float (&entries)[kEntries<Entry>]) {
  if constexpr (sizeof(Entry) == sizeof(float)) {
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; ++k) entries[k] = vector.entries[k];
  } else {
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; k += 2) {
      typename PairOf<Entry>::Type pair;
      memcpy(&pair, &vector.entries[k], sizeof pair);
      const float2 floats = to_floats(pair);
      entries[k] = floats.x;
      entries[k + 1] = floats.y;
    }
  }
}

// Passes over NaN.
template <class Entry, int kVectors>
__device__ inline float largest(const Vector<Entry> (&vectors)[kVectors]) {
  if constexpr (sizeof(Entry) == sizeof(float)) {
    float max = -INFINITY;
#pragma unroll
    for (int k = 0; k < kVectors * kEntries<Entry>; ++k) {
      max = fmaxf(max, vectors[k / kEntries<Entry>].entries[k % kEntries<Entry>]);
    }
    return max;
  } else {  // two at once
    typename PairOf<Entry>::Type max, pair;
    memcpy(&max, &vectors[0].entries[0], sizeof max);
#pragma unroll
    for (int k = 2; k < kVectors * kEntries<Entry>; k += 2) {
      memcpy(&pair, &vectors[k / kEntries<Entry>].entries[k % kEntries<Entry>], sizeof pair);
      max = __hmax2(max, pair);
    }
    const float2 floats = to_floats(max);
    return fmaxf(floats.x, floats.y);
  }
}

// Read or written once, so kept out of the way of what is used again (the cache-streaming forms).
template <bool kAligned, class Entry>
__device__ inline Vector<Entry> load_vector(const Entry* from) {
  Vector<Entry> vector;
  if constexpr (kAligned) {
    const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(from));
    memcpy(&vector, &bits, sizeof vector);
  } else {
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; ++k) vector.entries[k] = from[k];
  }
  return vector;
}

template <bool kAligned, class Entry>
__device__ inline void store_vector(Entry* to, const Vector<Entry>& vector) {
  if constexpr (kAligned) {
    uint4 bits;
    memcpy(&bits, &vector, sizeof bits);
    __stcs(reinterpret_cast<uint4*>(to), bits);
  } else {
#pragma unroll
    for (int k = 0; k < kEntries<Entry>; ++k) to[k] = vector.entries[k];
  }
}

// The last entries of a row, filled up with -inf to a vector.
template <class Entry>
__device__ inline Vector<Entry> load_tail(const Entry* from, int count) {
  Vector<Entry> vector;
#pragma unroll
  for (int k = 0; k < kEntries<Entry>; ++k) {
    if (k < count) {
      vector.entries[k] = from[k];
    } else {
      set_entry(vector.entries[k], -INFINITY);
    }
  }
  return vector;
}

// ---------------------------------------------------------------- powers of two

constexpr float kNatsPerBit = 0x1.62e430p-1f;
// 2^kNothing is 0 and so is its product with kNothing: what -inf must contribute, where 0 * (-inf) is NaN.
constexpr float kNothing = -1000.0f;

// What a row's entries are relative to; a maximum of -inf would make (-inf) - (-inf) of them.
__device__ inline float anchor_of(float max) { return max == -INFINITY ? 0.0f : max; }

__device__ inline float bits_below(float entry, float anchor, float scale) {
  return (entry - anchor) * scale;
}

}  // namespace megaent
