// Numbers of a law from a few registers of counters in two passes: all their words, then all their
// numbers. Either is a chain of steps that wait for one another, too long for a processor to look
// past. So each loop has four of them side by side, and the compiler mixes their steps (MIX in
// setup.py). Internal to each instruction set that includes it.
#pragma once

#include "../core/draws.h"
#include "../core/laws.h"
#include "vector.h"

namespace robustcore {
namespace {

constexpr int kRegisters = 16;  // at most: their words stay in the first-level cache

// body(0), body(1), ... up to count.
template <class Body>
RC_FN void side_by_side(int count, Body body) {
    int r = 0;
    for (; r + 4 <= count; r += 4) {
        body(r);
        body(r + 1);
        body(r + 2);
        body(r + 3);
    }
    for (; r < count; ++r) body(r);
}

struct Batch {
    Vector::U word[4][kRegisters];

    // Words of a register's even lanes and of its odd ones.
    RC_FN void keep(int r, const Words<Vector>& even, const Words<Vector>& odd) {
        word[0][r] = Vector::interleave(even.c0, odd.c0);
        word[1][r] = Vector::interleave(even.c1, odd.c1);
        word[2][r] = Vector::interleave(even.c2, odd.c2);
        word[3][r] = Vector::interleave(even.c3, odd.c3);
    }

    // Two of a register's four numbers, the first two or the last, `apart` floats from each other.
    template <Law kLaw>
    RC_FN void make(int r, int pair, float* z, int64_t apart) const {
        const Normals<Vector> n = numbers<kLaw, Vector>(word[2 * pair][r], word[2 * pair + 1][r]);
        memcpy(z, &n.z0, sizeof n.z0);
        memcpy(z + apart, &n.z1, sizeof n.z1);
    }
};

}  // namespace
}  // namespace robustcore
