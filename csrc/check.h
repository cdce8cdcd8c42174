// Checks of an op's arguments; a failed one becomes a RuntimeError that says what was expected and what came.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace megaent {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < tensor.dim(); ++i) shape.push_back(tensor.size(i));
  return shape;
}

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& expected) {
  const std::vector<int64_t> found = shape_of(tensor);
  if (found != expected) {
    throw std::runtime_error(std::string(name) + " must have shape " + shape_text(expected) + ", got " +
                             shape_text(found));
  }
}

inline void check_type(const Tensor& tensor, const char* name, std::initializer_list<ScalarType> allowed) {
  std::string names;
  for (const ScalarType type : allowed) {
    if (tensor.scalar_type() == type) return;
    names += (names.empty() ? "" : " or ") + std::string(torch::headeronly::toString(type));
  }
  throw std::runtime_error(std::string(name) + " must be " + names + ", got " +
                           torch::headeronly::toString(tensor.scalar_type()));
}

// The entries of a row must lie side by side; rows may be apart.
inline void check_rows(const Tensor& tensor, const char* name) {
  if (tensor.dim() != 2) {
    throw std::runtime_error(std::string(name) + " must have two dimensions, got shape " +
                             shape_text(shape_of(tensor)));
  }
  if (tensor.size(1) > 1 && tensor.stride(1) != 1) {
    throw std::runtime_error(std::string(name) +
                             " must have rows of adjacent entries (stride 1), got stride " +
                             std::to_string(tensor.stride(1)) + "; call contiguous() on it");
  }
}

}  // namespace megaent
