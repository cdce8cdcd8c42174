// The part of CUDA that csrc/cuda/*.cuh and csrc/cuda/logits_stats.cu speak, for a processor: the kernels' own source
// runs on it.
//
// A block's threads are fibers of one thread of the system. Each runs until it waits (at a barrier, in a
// shuffle), then the next; blocks run one after the other. MEGAENT_FIBER_ORDER=backward runs them from the
// last to the first: where a barrier is missing, the results of the two orders differ. Threads that wait for
// each other at different places are an error. Arithmetic is as under -ftz=true -fmad=false; exp2f errs as
// much as a GPU's may.
#pragma once

#include <ucontext.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <vector>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#define __global__
#define __device__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};

inline dim3 threadIdx(0), blockIdx(0);

// ---------------------------------------------------------------- fibers

namespace cuda_on_host {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kWarpSize = 32;

// Opens for all once as many have come as are awaited.
struct Barrier {
  unsigned num_arrived = 0;
  unsigned generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool is_done = false;
};

struct Warp {
  Barrier barrier;
  std::array<std::array<float, kWarpSize>, 2> values;  // of one shuffle and of the one before it
};

class Block {
 public:
  explicit Block(unsigned num_threads) : fibers_(num_threads), warps_(num_threads / kWarpSize) {
    if (num_threads % kWarpSize != 0) throw std::runtime_error("a block must be whole warps");
    const char* order = std::getenv("MEGAENT_FIBER_ORDER");
    is_backward_ = order != nullptr && std::string_view(order) == "backward";
  }

  void run(unsigned block, const std::function<void()>& kernel) {
    running_ = this;
    kernel_ = &kernel;
    blockIdx = dim3(block, 0, 0);
    num_live_ = size();
    for (Fiber& fiber : fibers_) {
      fiber.is_done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    while (num_live_ > 0) {
      has_moved_ = false;
      for (unsigned i = 0; i < size(); ++i) resume(is_backward_ ? size() - 1 - i : i);
      if (!has_moved_)
        throw std::runtime_error("the threads of a block wait for each other at different places");
    }
  }

  static Block& running() { return *running_; }

  void sync_threads() {
    wait(barrier_, [this] { return num_live_; });
  }

  float shuffle(float value, unsigned from) {
    Warp& warp = warps_[threadIdx.x / kWarpSize];
    auto& values = warp.values[warp.barrier.generation % 2];
    values[threadIdx.x % kWarpSize] = value;
    wait(warp.barrier, [] { return kWarpSize; });
    return values[from];
  }

 private:
  unsigned size() const { return static_cast<unsigned>(fibers_.size()); }

  static void enter() {
    (*running_->kernel_)();
    running_->fibers_[threadIdx.x].is_done = true;
    --running_->num_live_;
    running_->has_moved_ = true;
  }

  void resume(unsigned thread) {
    if (fibers_[thread].is_done) return;
    threadIdx = dim3(thread, 0, 0);
    swapcontext(&scheduler_, &fibers_[thread].context);
  }

  template <class Awaited>
  void wait(Barrier& barrier, Awaited awaited) {
    const unsigned mine = barrier.generation;
    ++barrier.num_arrived;
    while (barrier.generation == mine) {
      if (barrier.num_arrived == awaited()) {
        barrier.num_arrived = 0;
        ++barrier.generation;
        has_moved_ = true;
        return;
      }
      swapcontext(&fibers_[threadIdx.x].context, &scheduler_);
    }
  }

  static inline Block* running_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  Barrier barrier_;
  ucontext_t scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned num_live_ = 0;
  bool is_backward_ = false;
  bool has_moved_ = false;
};

// Numbers too small for a normal fp32 are 0 for as long as this lives.
class FlushToZero {
#ifdef __SSE__
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// The CUDA programming guide gives exp2f 2 units in the last place: up to 2^-22. One way or the other, by a
// bit of x.
inline float exp2_of_gpu(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (x == 0.0f) return 1.0f;
  const float off = bits & 4u ? 0x1p-22f : -0x1p-22f;
  return std::exp2(x) * (1.0f + off);
}

}  // namespace cuda_on_host

// ---------------------------------------------------------------- CUDA's names

#define exp2f cuda_on_host::exp2_of_gpu

inline void __syncthreads() { cuda_on_host::Block::running().sync_threads(); }
inline float __shfl_xor_sync(unsigned mask, float value, int distance) {
  if (mask != 0xffffffffu) throw std::runtime_error("a shuffle must name the whole warp");
  const unsigned from = (threadIdx.x % cuda_on_host::kWarpSize) ^ static_cast<unsigned>(distance);
  return cuda_on_host::Block::running().shuffle(value, from);
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
// A GPU faults where an address is no multiple of the width.
inline void check_alignment(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(uint4) != 0) std::abort();
}
inline uint4 __ldcs(const uint4* from) {
  check_alignment(from);
  return *from;
}
inline void __stcs(uint4* to, uint4 value) {
  check_alignment(to);
  *to = value;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const cuda_on_host::FlushToZero flush;
  cuda_on_host::Block block(config->blockDim.x);
  for (unsigned b = 0; b < config->gridDim.x; ++b) block.run(b, [&] { kernel(arguments...); });
  return cudaSuccess;
}
