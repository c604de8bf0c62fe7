// Numbers of a draw, some groups at a time. Internal to each instruction set that includes it.
#pragma once

#include "normals.h"

namespace robustcore {
namespace {

struct Draw {
    uint32_t sample, id, stream;
    Key key;
};

// Numbers of the groups [first, first + groups) of one draw.
template <Law kLaw>
void fill(float* z, int64_t first, int64_t groups, const Draw& draw) {
    const Vector::W zero = {};
    const Vector::W sample = zero + draw.sample, id = zero + draw.id, stream = zero + draw.stream;
    for (int64_t done = 0; done < groups; done += kRegisters) {
        const int count = static_cast<int>(groups - done < kRegisters ? groups - done : kRegisters);
        for (int lane = 0; lane < 16; lane += Vector::kLanes) {
            Batch batch;
            side_by_side(count, [&](int r) __attribute__((always_inline)) {
                const uint64_t block = 16 * static_cast<uint64_t>(first + done + r) + lane;
                batch.keep(
                    r, philox<Vector>({Vector::every_other(block), sample, id, stream}, draw.key),
                    philox<Vector>({Vector::every_other(block + 1), sample, id, stream}, draw.key));
            });
            for (int pair = 0; pair < 2; ++pair) {
                float* const to = z + done * kGroup + lane + 32 * pair;
                side_by_side(count, [&](int r) __attribute__((always_inline)) {
                    batch.make<kLaw>(r, pair, to + r * kGroup, 16);
                });
            }
        }
    }
}

}  // namespace
}  // namespace robustcore
