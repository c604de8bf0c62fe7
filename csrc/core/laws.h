// The laws of perturb: from words to the numbers that a law draws, and from such a number and an
// element to the noisy element. robustcore/kernels/reference.py has the same steps in torch.
#pragma once

#include "normal.h"

namespace robustcore {

// In the order of LAWS in robustcore/kernels/__init__.py.
enum class Law { kGaussian, kUniform, kLaplace, kSaltAndPepper, kSpeckle };

// Strictly between -1 and 1: the word's top 24 bits, exactly.
template <class V>
RC_FN typename V::F signed_uniform(typename V::U word) {
    using I = typename V::I;
    return (V::to_float(bit_cast<I>(word) >> 8) + 0.5f) * 0x1p-23f;
}

// A size that is not negative, with the word's lowest bit as its sign.
template <class V>
RC_FN typename V::F with_lowest_bit(typename V::F size, typename V::U word) {
    using F = typename V::F;
    using U = typename V::U;
    return bit_cast<F>(bit_cast<U>(size) | (word << 31));
}

// -ln v for v = (word with its lowest bit set) * 2^-32; 0 where v rounds to 1.
template <class V>
RC_FN typename V::F laplace(typename V::U word) {
    const typename V::F size = minus_twice_log<V>(V::to_float(word | 1u)) * 0.5f;
    return with_lowest_bit<V>(size, word);
}

// The scale at which an element is replaced, in [0, 1), exactly; negative where by the upper level.
template <class V>
RC_FN typename V::F salt_and_pepper(typename V::U word) {
    using I = typename V::I;
    const typename V::F size = V::to_float(bit_cast<I>(word >> 8)) * 0x1p-24f;
    return with_lowest_bit<V>(size, word);
}

// Two of a counter's words to two numbers.
template <Law kLaw, class V>
RC_FN Normals<V> numbers(typename V::U first, typename V::U second) {
    if constexpr (kLaw == Law::kUniform)
        return {signed_uniform<V>(first), signed_uniform<V>(second)};
    else if constexpr (kLaw == Law::kLaplace)
        return {laplace<V>(first), laplace<V>(second)};
    else if constexpr (kLaw == Law::kSaltAndPepper)
        return {salt_and_pepper<V>(first), salt_and_pepper<V>(second)};
    else
        return normals<V>(first, second);
}

// An element with the noise of its number z. low and high: the levels of salt and pepper.
template <Law kLaw>
RC_FN float noisy(float x, float scale, float z, float low, float high) {
    if constexpr (kLaw == Law::kSaltAndPepper) {
        const uint32_t bits = bit_cast<uint32_t>(z);
        const float level = bits >> 31 ? high : low;
        return bit_cast<float>(bits & 0x7FFFFFFFu) < scale ? level : x;
    } else {
        const float size = kLaw == Law::kSpeckle ? x * scale : scale;
        const float offset = size * z;
        return x + offset;
    }
}

template <Law kOne>
struct Chosen {
    static constexpr Law kLaw = kOne;
};

// Calls body(Chosen<law>): the law is known when the body is compiled, and no loop tests it.
template <class Body>
void by_law(Law law, Body body) {
    switch (law) {
        case Law::kGaussian:
            return body(Chosen<Law::kGaussian>{});
        case Law::kUniform:
            return body(Chosen<Law::kUniform>{});
        case Law::kLaplace:
            return body(Chosen<Law::kLaplace>{});
        case Law::kSaltAndPepper:
            return body(Chosen<Law::kSaltAndPepper>{});
        case Law::kSpeckle:
            return body(Chosen<Law::kSpeckle>{});
    }
}

}  // namespace robustcore
