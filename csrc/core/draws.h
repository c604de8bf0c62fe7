// Words of many draws at once: a lane is a draw, and all lanes are at one block of it. Lanes share
// the block and the stream, so of the first two rounds of Philox little is left for each block.
#pragma once

#include "philox.h"

namespace robustcore {

constexpr int64_t kGroup = 64;  // elements made by 16 counters

template <class V>
struct Draws {
    typename V::W id_product, sample_product;  // of the first round and of the second
    uint32_t stream;
    Key key;
};

template <class V>
RC_FN Draws<V> draws(typename V::W sample, typename V::W id, uint32_t stream, Key key) {
    const typename V::W p1 = V::multiply(id, 0xCD9E8D57u);
    const typename V::W c0 = (p1 >> 32) ^ sample ^ static_cast<uint64_t>(key.k0);
    return {p1, V::multiply(c0, 0xD2511F53u), stream, key};
}

// The words of counter (block, sample, id, stream), each in the low half of its lane.
template <class V>
RC_FN Words<V> words(const Draws<V>& d, uint32_t block) {
    const uint64_t p0 = static_cast<uint64_t>(block) * 0xD2511F53u;
    const uint32_t c2 = static_cast<uint32_t>(p0 >> 32) ^ d.stream ^ d.key.k1;
    const uint64_t p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    const uint64_t key0 = (p1 >> 32) ^ (d.key.k0 + 0x9E3779B9u);
    const uint64_t key1 = static_cast<uint32_t>(p0) ^ (d.key.k1 + 0xBB67AE85u);
    const typename V::W none = d.id_product ^ d.id_product;
    return philox<V, 2>({d.id_product ^ key0, none ^ static_cast<uint32_t>(p1),
                         (d.sample_product >> 32) ^ key1, d.sample_product},
                        d.key);
}

}  // namespace robustcore
