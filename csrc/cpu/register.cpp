// The ops' schemas and the CPU's implementations of them: torch.ops.megaent.* once this library is loaded.
// Through torch's stable interface alone, so that one build serves every torch from 2.11 on.
#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(megaent, library) {
  library.def(
      "logits_stats(Tensor logits, Tensor target, int vocab_start, float inv_temperature, bool moments) -> "
      "Tensor");
  library.def("stats_combine(Tensor[] partials, float inv_temperature) -> Tensor");
  library.def(
      "logits_stats_backward(Tensor logits, Tensor target, Tensor stats, Tensor? grad_log_prob, "
      "Tensor? grad_entropy, Tensor? reference, Tensor? kl_stats, Tensor? grad_kl, int vocab_start, "
      "float inv_temperature, *, Tensor(a!) out) -> ()");
  library.def(
      "kl_partial(Tensor logits, Tensor reference, Tensor partial, Tensor reference_partial, "
      "float inv_temperature) -> Tensor");
  library.def("top_logits(Tensor logits) -> Tensor");
  library.def("count_above(Tensor logits, Tensor bound) -> Tensor");
  library.def(
      "mass_by_digit(Tensor logits, Tensor max, Tensor prefix, int shift, float inv_temperature) -> Tensor");
  library.def(
      "segment_support(Tensor token, Tensor start, Tensor stop, Tensor owner, Tensor is_correct) "
      "-> (Tensor, Tensor)");
  library.def("simd_level() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(megaent, CPU, library) {
  library.impl("logits_stats", TORCH_BOX(&megaent::logits_stats));
  library.impl("stats_combine", TORCH_BOX(&megaent::stats_combine));
  library.impl("logits_stats_backward", TORCH_BOX(&megaent::logits_stats_backward));
  library.impl("kl_partial", TORCH_BOX(&megaent::kl_partial));
  library.impl("top_logits", TORCH_BOX(&megaent::top_logits));
  library.impl("count_above", TORCH_BOX(&megaent::count_above));
  library.impl("mass_by_digit", TORCH_BOX(&megaent::mass_by_digit));
  library.impl("segment_support", TORCH_BOX(&megaent::segment_support));
}

STABLE_TORCH_LIBRARY_IMPL(megaent, CompositeExplicitAutograd, library) {
  library.impl("simd_level", TORCH_BOX(&megaent::simd_level));
}
