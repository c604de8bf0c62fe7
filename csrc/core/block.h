// A block of threads that work in phases, with a barrier after each. On a GPU a thread runs a phase
// once; on a CPU one thread runs it for all in turn. So what is written over a Block is one text
// for both, and a test without a GPU runs what a GPU runs.
#pragma once

#include "lanes.h"

namespace robustcore {

#if defined(__CUDACC__)

template <int kThreads>
struct DeviceBlock {
    static constexpr int kSize = kThreads;
    int64_t index;

    template <class T>
    struct Local {  // a T for each thread
        T value;
        __device__ __forceinline__ T& operator[](int) { return value; }
    };

    template <class Phase>
    __device__ __forceinline__ void each(Phase phase) {
        phase(static_cast<int>(threadIdx.x));
        __syncthreads();
    }
};

#endif

template <int kThreads>
struct HostBlock {
    static constexpr int kSize = kThreads;
    int64_t index;

    template <class T>
    struct Local {
        T value[kThreads];
        T& operator[](int thread) { return value[thread]; }
    };

    template <class Phase>
    void each(Phase phase) {
        for (int thread = 0; thread < kThreads; ++thread) phase(thread);
    }
};

// What was there before.
RC_FN int64_t add_one(int64_t* count) {
#if defined(__CUDA_ARCH__)
    return static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(count), 1ull));
#else
    return __atomic_fetch_add(count, int64_t{1}, __ATOMIC_RELAXED);
#endif
}

RC_FN float contracted(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

}  // namespace robustcore
