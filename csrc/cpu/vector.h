// Lanes of one vector register, by the instruction set this file is compiled for. Everything here
// has internal linkage, since each instruction set compiles its own copy.
#pragma once

#include "../core/lanes.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace robustcore {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

struct Vector {
    static constexpr int kLanes = kBytes / 4;
    typedef float F __attribute__((vector_size(kBytes)));
    typedef int32_t I __attribute__((vector_size(kBytes)));
    typedef uint32_t U __attribute__((vector_size(kBytes)));
    typedef uint64_t W __attribute__((vector_size(kBytes)));

    static RC_FN F to_float(I value) { return __builtin_convertvector(value, F); }
    // Rounds once, with or without an instruction for it.
    static RC_FN F to_float(U value) { return __builtin_convertvector(value, F); }

    static RC_FN W multiply(W a, uint32_t b) {
        const W wide = a - a + b;
#if defined(__AVX512F__)
        return (W)_mm512_mul_epu32((__m512i)a, (__m512i)wide);
#elif defined(__AVX2__)
        return (W)_mm256_mul_epu32((__m256i)a, (__m256i)wide);
#elif defined(__SSE2__)
        return (W)_mm_mul_epu32((__m128i)a, (__m128i)wide);
#else
        return (a & 0xFFFFFFFFu) * wide;
#endif
    }

    static RC_FN F sqrt(F value) {
#if defined(__AVX512F__)
        return (F)_mm512_sqrt_ps((__m512)value);
#elif defined(__AVX2__)
        return (F)_mm256_sqrt_ps((__m256)value);
#elif defined(__SSE2__)
        return (F)_mm_sqrt_ps((__m128)value);
#else
        for (int i = 0; i < kLanes; ++i) value[i] = __builtin_sqrtf(value[i]);
        return value;
#endif
    }

    // Words of even lanes and words of odd ones, each in the low half of a 64-bit lane.
    static RC_FN W even(U words) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return (W)words;
#else
        return (W)words >> 32;
#endif
    }
    static RC_FN W odd(U words) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return (W)words >> 32;
#else
        return (W)words;
#endif
    }

    // Back to words in lane order.
    static RC_FN U interleave(W even, W odd) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return (U)((even & 0xFFFFFFFFu) | (odd << 32));
#else
        return (U)((even << 32) | (odd & 0xFFFFFFFFu));
#endif
    }

    // base, base + 2, base + 4, ... : the counters of every other lane.
    static RC_FN W every_other(uint64_t base) {
        W value = {};
        for (int i = 0; i < kLanes / 2; ++i) value[i] = base + 2 * i;
        return value;
    }
};

}  // namespace
}  // namespace robustcore
