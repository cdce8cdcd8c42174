// The row kernels at the level "avx512"; scripts/build_ops gives this file alone the level's instructions.
#include "lanes_avx512.h"
#include "row_kernels.inl"

namespace megaent {
const RowKernels kAvx512Rows = kernels_of<Avx512Lanes>();
}  // namespace megaent
