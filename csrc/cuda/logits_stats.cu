// The logits path on a GPU: what is checked, and which kernel is launched over what. The arithmetic is in
// logits_stats.cuh, logits_gradient.cuh and stats_combine.cuh; the quantities and layouts are those of
// megaent/ops/reference.py.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <string>
#include <utility>

#include "../check.h"
#include "ops.h"
#include "logits_gradient.cuh"
#include "logits_stats.cuh"
#include "stats_combine.cuh"

namespace megaent::cuda {
namespace {

constexpr int64_t kPartialRows = 5;  // max, count, below, weighted, target's logit
constexpr int64_t kMomentRows = 2;   // square, second
constexpr double kBitsPerNat = 1.4426950408889634;

int64_t divide_up(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Runs a kernel on the device and the current stream of a tensor.
template <class... Parameters, class... Arguments>
void launch(const Tensor& on, void (*kernel)(Parameters...), int64_t num_blocks, int num_threads,
            Arguments... arguments) {
  if (num_blocks > INT32_MAX) {
    throw std::runtime_error("one call can use 2^31 - 1 blocks, this one needs " +
                             std::to_string(num_blocks) + "; split the rows over several calls");
  }
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_blocks));
  config.blockDim = dim3(static_cast<unsigned>(num_threads));
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("a kernel could not be launched: ") + cudaGetErrorString(error));
  }
}

// Calls `run` with a null pointer of the entries' type.
template <class Run>
void for_entry_type(ScalarType type, Run run) {
  if (type == ScalarType::Float) {
    run(static_cast<float*>(nullptr));
  } else if (type == ScalarType::BFloat16) {
    run(static_cast<__nv_bfloat16*>(nullptr));
  } else {
    run(static_cast<__half*>(nullptr));
  }
}

// Whether every row begins at a multiple of what a thread loads at once.
bool is_aligned(const Tensor& rows) {
  const int64_t distance = rows.size(0) > 1 ? rows.stride(0) * static_cast<int64_t>(rows.element_size()) : 0;
  return (reinterpret_cast<intptr_t>(rows.const_data_ptr()) | distance) % kVectorBytes == 0;
}

int64_t entries_in_vector(const Tensor& rows) {
  return kVectorBytes / static_cast<int64_t>(rows.element_size());
}

void check_device(const Tensor& tensor, const char* name, const Tensor& logits) {
  if (tensor.device() == logits.device()) return;
  const auto text = [](const Tensor& of) {
    return (of.is_cpu() ? "cpu:" : "cuda:") + std::to_string(of.get_device_index());
  };
  throw std::runtime_error(std::string(name) + " must be on the device of logits, " + text(logits) +
                           ", got " + text(tensor));
}

void check_batch(const Tensor& logits, const Tensor& target) {
  check_rows(logits, "logits");
  check_type(logits, "logits", {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half});
  check_type(target, "target", {ScalarType::Long});
  check_shape(target, "target", {logits.size(0)});
  check_device(target, "target", logits);
}

void check_gradients(const Tensor& logits, const Tensor& target, const Tensor& stats,
                     const std::optional<Tensor>& grad_log_prob, const std::optional<Tensor>& grad_entropy,
                     const Tensor& out) {
  check_batch(logits, target);
  check_rows(stats, "stats");
  check_type(stats, "stats", {ScalarType::Float});
  check_device(stats, "stats", logits);
  if (stats.size(0) < 4 || stats.size(1) != logits.size(0)) {
    throw std::runtime_error("stats must have shape [4 or more, " + std::to_string(logits.size(0)) +
                             "], got " + shape_text(shape_of(stats)));
  }
  for (const auto& [grad, name] :
       {std::pair(&grad_log_prob, "grad_log_prob"), {&grad_entropy, "grad_entropy"}}) {
    if (!grad->has_value()) continue;
    check_shape(**grad, name, {logits.size(0)});
    check_type(**grad, name, {ScalarType::Float});
    check_device(**grad, name, logits);
  }
  check_rows(out, "out");
  check_shape(out, "out", shape_of(logits));
  check_type(out, "out", {logits.scalar_type()});
  check_device(out, "out", logits);
}

Parts parts_of(const std::vector<Tensor>& partials) {
  if (partials.empty() || partials.size() > kMaxParts) {
    throw std::runtime_error("partials must hold 1 to " + std::to_string(kMaxParts) + " tensors, got " +
                             std::to_string(partials.size()));
  }
  Parts parts = {};
  for (const Tensor& partial : partials) {
    check_rows(partial, "every partial");
    check_type(partial, "every partial", {ScalarType::Float});
    check_shape(partial, "every partial", shape_of(partials[0]));
    check_device(partial, "every partial", partials[0]);
    parts.first[parts.num_parts] = partial.const_data_ptr<float>();
    parts.stride[parts.num_parts++] = partial.stride(0);
  }
  return parts;
}

template <class Entry>
void launch_stats(const Tensor& logits, const StatsArguments& given, bool moments) {
  auto* kernel = &logits_stats_kernel<Entry, true, false>;
  if (is_aligned(logits)) {
    if (moments) kernel = &logits_stats_kernel<Entry, true, true>;
  } else {
    kernel = moments ? &logits_stats_kernel<Entry, false, true> : &logits_stats_kernel<Entry, false, false>;
  }
  launch(logits, kernel, given.num_rows * given.num_spans, kThreads,
         static_cast<const Entry*>(logits.const_data_ptr()), given);
}

void merge_spans(const Tensor& of_spans, int64_t num_spans, double inv_temperature, const Tensor& partial) {
  const int64_t rows = partial.size(0), num_rows = partial.size(1);
  Parts parts = {};
  for (; parts.num_parts < num_spans; ++parts.num_parts) {
    parts.first[parts.num_parts] = of_spans.const_data_ptr<float>() + parts.num_parts * rows * num_rows;
    parts.stride[parts.num_parts] = num_rows;
  }
  auto* kernel = rows == kPartialRows ? &spans_merge_kernel<false> : &spans_merge_kernel<true>;
  launch(partial, kernel, divide_up(num_rows, kCombineThreads), kCombineThreads, parts,
         partial.mutable_data_ptr<float>(), num_rows, inv_temperature);
}

}  // namespace

Tensor logits_stats(Tensor logits, Tensor target, int64_t vocab_start, double inv_temperature, bool moments) {
  check_batch(logits, target);
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  const int64_t rows = kPartialRows + (moments ? kMomentRows : 0);
  Tensor partial = torch::stable::new_empty(logits, {rows, num_rows}, ScalarType::Float);
  if (num_rows == 0) return partial;
  const int64_t num_spans =
      std::max<int64_t>(1, divide_up(num_columns, kSpanVectors * entries_in_vector(logits)));
  if (num_spans > kMaxParts) {
    throw std::runtime_error("logits may have up to " +
                             std::to_string(kMaxParts * kSpanVectors * entries_in_vector(logits)) +
                             " columns, got " + std::to_string(num_columns) + "; split the vocabulary");
  }
  const Tensor of_spans =
      num_spans == 1 ? partial
                     : torch::stable::new_empty(logits, {num_spans * rows, num_rows}, ScalarType::Float);
  const StatsArguments given{target.const_data_ptr<int64_t>(),
                             of_spans.mutable_data_ptr<float>(),
                             num_rows,
                             num_columns,
                             logits.stride(0),
                             target.stride(0),
                             vocab_start,
                             static_cast<uint32_t>(num_spans),
                             static_cast<float>(inv_temperature * kBitsPerNat)};
  for_entry_type(logits.scalar_type(), [&](auto* entry) {
    launch_stats<std::remove_pointer_t<decltype(entry)>>(logits, given, moments);
  });
  if (num_spans > 1) merge_spans(of_spans, num_spans, inv_temperature, partial);
  return partial;
}

Tensor stats_combine(std::vector<Tensor> partials, double inv_temperature) {
  const Parts parts = parts_of(partials);
  const int64_t num_rows = partials[0].size(1);
  const bool moments = partials[0].size(0) == kPartialRows + kMomentRows;
  Tensor stats = torch::stable::new_empty(partials[0], {moments ? 6 : 4, num_rows});
  if (num_rows == 0) return stats;
  launch(stats, moments ? &stats_combine_kernel<true> : &stats_combine_kernel<false>,
         divide_up(num_rows, kCombineThreads), kCombineThreads, parts, stats.mutable_data_ptr<float>(),
         num_rows, inv_temperature);
  return stats;
}

void logits_stats_backward(Tensor logits, Tensor target, Tensor stats, std::optional<Tensor> grad_log_prob,
                           std::optional<Tensor> grad_entropy, int64_t vocab_start, double inv_temperature,
                           Tensor out) {
  check_gradients(logits, target, stats, grad_log_prob, grad_entropy, out);
  const int64_t num_rows = logits.size(0), num_columns = logits.size(1);
  if (num_rows == 0 || num_columns == 0) return;
  const int64_t num_blocks = divide_up(num_columns, kGradientVectors * entries_in_vector(logits));
  const auto start_of = [](const std::optional<Tensor>& grad) {
    return grad ? grad->const_data_ptr<float>() : nullptr;
  };
  const GradientArguments given{target.const_data_ptr<int64_t>(),
                                stats.const_data_ptr<float>(),
                                start_of(grad_log_prob),
                                start_of(grad_entropy),
                                num_columns,
                                logits.stride(0),
                                out.stride(0),
                                target.stride(0),
                                stats.stride(0),
                                grad_log_prob ? grad_log_prob->stride(0) : 0,
                                grad_entropy ? grad_entropy->stride(0) : 0,
                                vocab_start,
                                static_cast<uint32_t>(num_blocks),
                                static_cast<float>(inv_temperature),
                                static_cast<float>(inv_temperature * kBitsPerNat)};
  for_entry_type(logits.scalar_type(), [&](auto* entry) {
    using Entry = std::remove_pointer_t<decltype(entry)>;
    auto* kernel = is_aligned(logits) && is_aligned(out) ? &logits_stats_backward_kernel<Entry, true>
                                                         : &logits_stats_backward_kernel<Entry, false>;
    launch(logits, kernel, num_rows * num_blocks, kThreads,
           static_cast<const Entry*>(logits.const_data_ptr()), static_cast<Entry*>(out.mutable_data_ptr()),
           given);
  });
}

}  // namespace megaent::cuda
