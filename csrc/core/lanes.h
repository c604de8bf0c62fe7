// What the maths is written over: a set of lanes, one or many. The headers beside this one are
// templates over such a type, so a scalar, a vector register and a CUDA thread share every line.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define RC_FN __host__ __device__ __forceinline__
#else
// Always inlined: a shared copy of a function compiled for AVX-512 must not reach another caller.
#define RC_FN inline __attribute__((always_inline))
#endif

namespace robustcore {

template <class To, class From>
RC_FN To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

// One lane. F, I, U: 32-bit float, signed and unsigned; W: a 64-bit holder of one word.
struct Scalar {
    using F = float;
    using I = int32_t;
    using U = uint32_t;
    using W = uint64_t;

    static RC_FN F to_float(I value) { return static_cast<F>(value); }
    static RC_FN F to_float(U value) { return static_cast<F>(value); }
    // The 64-bit product of the low halves.
    static RC_FN W multiply(W a, U b) { return static_cast<W>(static_cast<U>(a)) * b; }
    static RC_FN F sqrt(F value) {
#if defined(__CUDA_ARCH__)
        return __fsqrt_rn(value);
#else
        return __builtin_sqrtf(value);
#endif
    }
};

}  // namespace robustcore
