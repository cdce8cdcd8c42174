// What the ops over rows of logits share: entries by type, columns at any stride, how rows are handed out.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../check.h"

namespace megaent {

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
inline int64_t rows_per_task(int64_t num_columns) { return 1 + (int64_t{1} << 15) / (num_columns + 1); }

inline float float_of(float entry) { return entry; }
inline float float_of(uint16_t entry) {
  const uint32_t bits = static_cast<uint32_t>(entry) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void check_logits(const Tensor& logits, const char* name) {
  check_rows(logits, name);
  check_type(logits, name, {ScalarType::Float, ScalarType::BFloat16});
}

inline void check_batch(const Tensor& logits, const Tensor& target) {
  check_logits(logits, "logits");
  check_type(target, "target", {ScalarType::Long});
  check_shape(target, "target", {logits.size(0)});
}

inline void check_reference(const Tensor& logits, const Tensor& reference) {
  check_rows(reference, "reference");
  check_shape(reference, "reference", shape_of(logits));
  check_type(reference, "reference", {logits.scalar_type()});
}

}  // namespace megaent
