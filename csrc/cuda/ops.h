// The ops on a GPU, as register_cuda.cu makes them known to torch.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace megaent::cuda {

torch::stable::Tensor logits_stats(torch::stable::Tensor logits, torch::stable::Tensor target,
                                   int64_t vocab_start, double inv_temperature, bool moments);

torch::stable::Tensor stats_combine(std::vector<torch::stable::Tensor> partials, double inv_temperature);

void logits_stats_backward(torch::stable::Tensor logits, torch::stable::Tensor target,
                           torch::stable::Tensor stats, std::optional<torch::stable::Tensor> grad_log_prob,
                           std::optional<torch::stable::Tensor> grad_entropy, int64_t vocab_start,
                           double inv_temperature, torch::stable::Tensor out);

}  // namespace megaent::cuda
