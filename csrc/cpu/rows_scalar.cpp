// The row kernels at the level "scalar"; scripts/build_ops gives this file alone the level's instructions.
#include "lanes_scalar.h"
#include "row_kernels.inl"

namespace megaent {
const RowKernels kScalarRows = kernels_of<ScalarLanes>();
}  // namespace megaent
