// Which instruction level the row kernels run at.
#include "row_kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ops.h"

namespace megaent {
namespace {

struct Level {
  const char* name;
  const RowKernels* kernels;
  bool (*is_here)();
};

// The highest first. The processor is asked for what the compiler was allowed to use in each file.
constexpr Level kLevels[] = {
#ifdef MEGAENT_X86
    {"avx512", &kAvx512Rows,
     [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"); }},
    {"avx2", &kAvx2Rows, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"scalar", &kScalarRows, [] { return true; }},
};

const Level& chosen() {
  // Read at every call, so that one process can compare the levels; beside a row of logits it costs nothing.
  const char* wanted = std::getenv("MEGAENT_OPS_SIMD");
  if (wanted == nullptr || *wanted == '\0') {
    for (const Level& level : kLevels) {
      if (level.is_here()) return level;
    }
  }
  std::string here;
  for (const Level& level : kLevels) {
    if (!level.is_here()) continue;
    if (wanted != nullptr && std::string_view(wanted) == level.name) return level;
    here += here.empty() ? level.name : std::string(", ") + level.name;
  }
  throw std::runtime_error("MEGAENT_OPS_SIMD must be unset or a level that this processor has (" + here +
                           "), got '" + wanted + "'");
}

}  // namespace

const RowKernels& row_kernels() { return *chosen().kernels; }

std::string simd_level() { return chosen().name; }

}  // namespace megaent
