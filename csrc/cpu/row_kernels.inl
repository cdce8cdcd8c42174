// The row kernels, written once over sixteen lanes and compiled once per instruction level.
#include "row_divergence.inl"
#include "row_gradient.inl"
#include "row_nucleus.inl"
#include "row_ranks.inl"
#include "row_stats.inl"

namespace megaent {
namespace {

template <class Lanes>
constexpr RowKernels kernels_of() {
  return {stats_row<Lanes, float>,       stats_row<Lanes, uint16_t>,
          backward_row<Lanes, float>,    backward_row<Lanes, uint16_t>,
          divergence_row<Lanes, float>,  divergence_row<Lanes, uint16_t>,
          top_row<Lanes, float>,         top_row<Lanes, uint16_t>,
          count_above_row<Lanes, float>, count_above_row<Lanes, uint16_t>,
          mass_row<Lanes, float>,        mass_row<Lanes, uint16_t>};
}

}  // namespace
}  // namespace megaent
