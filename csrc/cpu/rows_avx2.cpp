// The row kernels at the level "avx2"; scripts/build_ops gives this file alone the level's instructions.
#include "lanes_avx2.h"
#include "row_kernels.inl"

namespace megaent {
const RowKernels kAvx2Rows = kernels_of<Avx2Lanes>();
}  // namespace megaent
