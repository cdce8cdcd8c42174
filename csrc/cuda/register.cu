// The GPU's ops under torch.ops.megaent_cuda.* once this library is loaded; schemas as in register.cpp.
#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(megaent_cuda, library) {
  library.def(
      "logits_stats(Tensor logits, Tensor target, int vocab_start, float inv_temperature, bool moments) -> "
      "Tensor");
  library.def("stats_combine(Tensor[] partials, float inv_temperature) -> Tensor");
  library.def(
      "logits_stats_backward(Tensor logits, Tensor target, Tensor stats, Tensor? grad_log_prob, "
      "Tensor? grad_entropy, int vocab_start, float inv_temperature, *, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(megaent_cuda, CUDA, library) {
  library.impl("logits_stats", TORCH_BOX(&megaent::cuda::logits_stats));
  library.impl("stats_combine", TORCH_BOX(&megaent::cuda::stats_combine));
  library.impl("logits_stats_backward", TORCH_BOX(&megaent::cuda::logits_stats_backward));
}
