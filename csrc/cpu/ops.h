// The ops, as register.cpp makes them known to torch.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace megaent {

torch::stable::Tensor logits_stats(torch::stable::Tensor logits, torch::stable::Tensor target,
                                   int64_t vocab_start, double inv_temperature, bool moments);

torch::stable::Tensor stats_combine(std::vector<torch::stable::Tensor> partials, double inv_temperature);

void logits_stats_backward(torch::stable::Tensor logits, torch::stable::Tensor target,
                           torch::stable::Tensor stats, std::optional<torch::stable::Tensor> grad_log_prob,
                           std::optional<torch::stable::Tensor> grad_entropy,
                           std::optional<torch::stable::Tensor> reference,
                           std::optional<torch::stable::Tensor> kl_stats,
                           std::optional<torch::stable::Tensor> grad_kl, int64_t vocab_start,
                           double inv_temperature, torch::stable::Tensor out);

torch::stable::Tensor kl_partial(torch::stable::Tensor logits, torch::stable::Tensor reference,
                                 torch::stable::Tensor partial, torch::stable::Tensor reference_partial,
                                 double inv_temperature);

torch::stable::Tensor top_logits(torch::stable::Tensor logits);

torch::stable::Tensor count_above(torch::stable::Tensor logits, torch::stable::Tensor bound);

torch::stable::Tensor mass_by_digit(torch::stable::Tensor logits, torch::stable::Tensor max,
                                    torch::stable::Tensor prefix, int64_t shift, double inv_temperature);

std::tuple<torch::stable::Tensor, torch::stable::Tensor> segment_support(torch::stable::Tensor token,
                                                                         torch::stable::Tensor start,
                                                                         torch::stable::Tensor stop,
                                                                         torch::stable::Tensor owner,
                                                                         torch::stable::Tensor is_correct);

// The name of the instruction level in use.
std::string simd_level();

}  // namespace megaent
