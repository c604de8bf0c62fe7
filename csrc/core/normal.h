// Two random words to two standard normals by Box and Muller's method, bit for bit the same
// everywhere: IEEE float32 add, multiply and square root only, and no contraction
// (-ffp-contract=off, -fmad=false). robustcore/kernels/reference.py has the same steps in torch.
#pragma once

#include "lanes.h"

namespace robustcore {

// -2 ln(v * 2^-32) for v in [1/2, 2^32]; exactly 0 where v is 2^32, never below.
template <class V>
RC_FN typename V::F minus_twice_log(typename V::F v) {
    using F = typename V::F;
    using I = typename V::I;
    // v = m * 2^e with m in [sqrt(1/2), sqrt(2)); then -ln(v * 2^-32) = (32 - e) ln 2 - ln m.
    const I shifted = bit_cast<I>(v) + (0x3F800000 - 0x3F3504F3);
    const F n = V::to_float((127 + 32) - (shifted >> 23));
    const F f = bit_cast<F>((shifted & 0x007FFFFF) + 0x3F3504F3) - 1.0f;
    F log = f * -0.17444713f + 0.2873369f;
    log = log * f + -0.29904532f;
    log = log * f + 0.33124787f;
    log = log * f + -0.39913666f;
    log = log * f + 0.5000415f;
    log = log * f + -0.66668373f;
    log = log * f + 0.99999976f;
    log = log * f + -2.0f;
    log = log * f;  // -2 ln m
    return n * 1.3862944f + log;
}

// sqrt(-2 ln u) for u = (word + 0.5) * 2^-32; exactly 0 where u rounds to 1, never NaN.
template <class V>
RC_FN typename V::F radius(typename V::U word) {
    return V::sqrt(minus_twice_log<V>(V::to_float(word) + 0.5f));
}

template <class V>
struct Normals {
    typename V::F z0, z1;
};

template <class V>
RC_FN Normals<V> normals(typename V::U radius_word, typename V::U angle_word) {
    using F = typename V::F;
    using I = typename V::I;
    using U = typename V::U;
    // The angle is q + h quarter turns: q the top two bits, h in (-1/2, 1/2) the next 24, exact.
    const I fraction = bit_cast<I>(angle_word << 2) >> 8;
    const F h = (V::to_float(fraction) + 0.5f) * 0x1p-24f;
    const F h2 = h * h;
    F sin = h2 * -0.0046016593f + 0.07968003f;
    sin = sin * h2 + -0.6459635f;
    sin = sin * h2 + 1.5707964f;
    sin = sin * h;
    F cos = h2 * -0.020417282f + 0.25360322f;
    cos = cos * h2 + -1.2336977f;
    cos = cos * h2 + 1.0f;
    const U doubled = angle_word << 1;
    const auto odd = bit_cast<I>(doubled) < 0;
    const U flip_cos = (angle_word ^ doubled) & 0x80000000u;
    const U flip_sin = angle_word & 0x80000000u;
    const F swapped_cos = odd ? sin : cos;
    const F swapped_sin = odd ? cos : sin;
    const F r = radius<V>(radius_word);
    return {r * bit_cast<F>(bit_cast<U>(swapped_cos) ^ flip_cos),
            r * bit_cast<F>(bit_cast<U>(swapped_sin) ^ flip_sin)};
}

}  // namespace robustcore
