// Philox4x32-10: a counter and a key to four random words (Salmon et al., Parallel random numbers:
// as easy as 1, 2, 3, 2011).
#pragma once

#include "lanes.h"

namespace robustcore {

struct Key {
    uint32_t k0, k1;
};

// Four words, each in the low half of a 64-bit lane. High halves hold leftovers of the products:
// no round reads them, so none clears them.
template <class V>
struct Words {
    typename V::W c0, c1, c2, c3;
};

// kDone rounds are already behind the words given.
template <class V, int kDone = 0>
RC_FN Words<V> philox(Words<V> c, Key key) {
    key.k0 += kDone * 0x9E3779B9u;
    key.k1 += kDone * 0xBB67AE85u;
    for (int round = kDone; round < 10; ++round) {
        const typename V::W p0 = V::multiply(c.c0, 0xD2511F53u);
        const typename V::W p1 = V::multiply(c.c2, 0xCD9E8D57u);
        c.c0 = (p1 >> 32) ^ c.c1 ^ static_cast<uint64_t>(key.k0);
        c.c1 = p1;
        c.c2 = (p0 >> 32) ^ c.c3 ^ static_cast<uint64_t>(key.k1);
        c.c3 = p0;
        key.k0 += 0x9E3779B9u;
        key.k1 += 0xBB67AE85u;
    }
    return c;
}

}  // namespace robustcore
