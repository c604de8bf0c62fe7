// Normals of a draw, some groups at a time. Internal to each instruction set that includes it.
#pragma once

#include "../core/normal.h"
#include "../core/philox.h"
#include "vector.h"

namespace robustcore {
namespace {

constexpr int64_t kGroup = 64;  // elements made by 16 counters

struct Draw {
    uint32_t sample, id, stream;
    Key key;
};

// Normals of the groups [first, first + groups) of one draw.
void fill(float* z, int64_t first, int64_t groups, const Draw& draw) {
    const Vector::W zero = {};
    const Vector::W sample = zero + draw.sample, id = zero + draw.id, stream = zero + draw.stream;
    for (int64_t g = 0; g < groups; ++g, z += kGroup) {
        for (int lane = 0; lane < 16; lane += Vector::kLanes) {
            const uint64_t block = 16 * static_cast<uint64_t>(first + g) + lane;
            const Words<Vector> even =
                philox<Vector>({Vector::every_other(block), sample, id, stream}, draw.key);
            const Words<Vector> odd =
                philox<Vector>({Vector::every_other(block + 1), sample, id, stream}, draw.key);
            const Normals<Vector> a = normals<Vector>(Vector::interleave(even.c0, odd.c0),
                                                      Vector::interleave(even.c1, odd.c1));
            const Normals<Vector> b = normals<Vector>(Vector::interleave(even.c2, odd.c2),
                                                      Vector::interleave(even.c3, odd.c3));
            memcpy(z + lane, &a.z0, sizeof a.z0);
            memcpy(z + lane + 16, &a.z1, sizeof a.z1);
            memcpy(z + lane + 32, &b.z0, sizeof b.z0);
            memcpy(z + lane + 48, &b.z1, sizeof b.z1);
        }
    }
}

}  // namespace
}  // namespace robustcore
