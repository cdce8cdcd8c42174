// The ops of csrc/cuda/logits_stats.cu for tensors on the CPU: torch.ops.megaent_cuda_on_host.*
#include <torch/csrc/stable/library.h>

#include "ops.h"

// What the launcher asks torch about devices. These take the place of torch's own within this library.
extern "C" {
struct DeviceGuardOpaque;
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
int32_t aoti_torch_create_device_guard(int32_t, DeviceGuardOpaque** guard) {
  *guard = nullptr;
  return 0;
}
int32_t aoti_torch_delete_device_guard(DeviceGuardOpaque*) { return 0; }
}

STABLE_TORCH_LIBRARY(megaent_cuda_on_host, library) {
  library.def(
      "logits_stats(Tensor logits, Tensor target, int vocab_start, float inv_temperature, bool moments) -> "
      "Tensor");
  library.def("stats_combine(Tensor[] partials, float inv_temperature) -> Tensor");
  library.def(
      "logits_stats_backward(Tensor logits, Tensor target, Tensor stats, Tensor? grad_log_prob, "
      "Tensor? grad_entropy, int vocab_start, float inv_temperature, *, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(megaent_cuda_on_host, CPU, library) {
  library.impl("logits_stats", TORCH_BOX(&megaent::cuda::logits_stats));
  library.impl("stats_combine", TORCH_BOX(&megaent::cuda::stats_combine));
  library.impl("logits_stats_backward", TORCH_BOX(&megaent::cuda::logits_stats_backward));
}
