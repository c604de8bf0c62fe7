// Gradients of a dense network by its input, and projected descents of all their steps, as one
// block of threads to a tile of slots: layers stay in shared memory, their sums in registers;
// points and gradients, which one block alone touches, in the cache. Each sum is made in the order
// that csrc/fused uses on a CPU with contraction, lengths as there with AVX-512, so answers have
// the same bits, up to those of the device's exponential.
#pragma once

#include "places.h"

namespace robustcore {

template <int kSlots, int kUnits, class Block>
struct AscentTile {
    using Own = Share<kSlots, kUnits>;
    Block& block;
    const AscentArgs& args;
    const Ascent& a;
    const AscentMemory<kSlots> memory;
    typename Block::template Local<Sums<kUnits>> sums;

    RC_BLOCK AscentTile(Block& own, const AscentArgs& given, float* shared)
        : block(own), args(given), a(given.ascent), memory(given, shared) {}

    // Places that are free take the next slots, if there are any.
    RC_BLOCK void take(bool first) {
        block.each([&](int thread) {
            if (thread >= kSlots) return;
            Place& own = memory.place[thread];
            if (!first && own.slot != kFree) return;
            const int64_t next = add_one(a.next);
            own.slot = next < a.slots ? next : kClosed;
            if (own.slot == kClosed || a.x == nullptr) return;
            own.progress = started(a.size[next]);
            own.radius = a.radius[next];
        });
    }

    RC_BLOCK bool busy() const {
        bool some = false;
        for (int i = 0; i < kSlots; ++i) some |= memory.place[i].slot >= 0;
        return some;
    }

    // write(unit, u) for the thread's units of a layer
    template <class Write>
    static RC_BLOCK void each_unit(int thread, int64_t first, int64_t width, Write write) {
        RC_UNROLL
        for (int u = 0; u < kUnits; ++u) {
            const int64_t n = first + Own::unit(thread, u);
            if (n < width) write(n, u);
        }
    }

    RC_BLOCK void start_sums(const float* bias, int64_t width) {
        block.each([&](int thread) {
            Sums<kUnits>& own = sums[thread];
            own = {};
            each_unit(thread, 0, width, [&](int64_t n, int u) {
                RC_UNROLL
                for (int q = 0; q < 4; ++q) own.value[u][q] = bias[n];
            });
        });
    }

    RC_BLOCK void add(const float* weight, int64_t width, int64_t held, const float* in) {
        block.each([&](int thread) {
            add_product<kSlots, kUnits>(sums[thread], weight, width, held, in, thread, 0);
        });
    }

    // The first layer's sums, some elements of the points at a time.
    RC_BLOCK void read_points() {
        for (int64_t e = 0; e < args.elements; e += 64) {
            const int64_t held = args.elements - e < 64 ? args.elements - e : 64;
            block.each([&](int thread) {
                // four elements of eight slots side by side: few banks and few lines meet
                for (int c = thread; c < 64 * kSlots; c += kThreads) {
                    const int i = c / 4 % kSlots, b = c % 4 + c / (4 * kSlots) * 4;
                    const int64_t slot = memory.place[i].slot;
                    if (b < held)
                        memory.stage[b * kSlots + i] =
                            slot < 0 ? 0.0f : a.points[slot * args.elements + e + b];
                }
            });
            add(args.weight[0] + e * args.width[0], args.width[0], held, memory.stage);
        }
    }

    RC_BLOCK void forward() {
        uint8_t* open = memory.open;
        for (int64_t l = 0; l < args.layers; ++l) {
            const int64_t width = args.width[l];
            const bool relu = args.relu[l], hidden = l + 1 < args.layers;
            start_sums(args.bias[l], width);
            if (l == 0)
                read_points();
            else
                add(args.weight[l], width, args.width[l - 1], memory.layer);
            block.each([&](int thread) {
                each_unit(thread, 0, width, [&](int64_t n, int u) {
                    int bits = 0;
                    RC_UNROLL
                    for (int q = 0; q < 4; ++q) {
                        const float sum = sums[thread].value[u][q];
                        const float value = relu ? rectified(sum) : sum;
                        memory.layer[n * kSlots + Own::quad(thread) + q] = value;
                        bits |= (!relu || value > 0.0f) << q;
                    }
                    if (hidden) open[n * Own::kQuads + thread % Own::kQuads] = bits;
                });
            });
            open += hidden ? width * Own::kQuads : 0;
        }
    }

    // What the logits say of each slot; a descent that is over frees its place.
    RC_BLOCK void judge() {
        const int64_t classes = args.width[args.layers - 1];
        block.each([&](int thread) {
            if (thread >= kSlots || memory.place[thread].slot < 0) return;
            Place& own = memory.place[thread];
            const int64_t wanted = a.wanted == nullptr ? -1 : a.wanted[own.slot];
            const Gain seen =
                gain({memory.layer + thread, kSlots}, classes, a.goal[a.rows[own.slot]], a.targeted,
                     a.loss, wanted, {memory.slope + thread, kSlots});
            const bool descends = a.x != nullptr;
            if (descends && !is_over(own.progress, a, own.radius, seen)) return;
            tell(a, own.slot, seen);
            if (!descends) return;
            tell(a, own.slot, own.progress);
            own.slot = kFree;
        });
    }

    RC_BLOCK void backward() {
        const float* in = memory.slope;
        const uint8_t* open = memory.open;
        for (int64_t l = 0; l + 1 < args.layers; ++l) open += args.width[l] * Own::kQuads;
        for (int64_t l = args.layers - 1; l > 0; --l) {
            const int64_t width = args.width[l - 1];
            open -= width * Own::kQuads;
            block.each([&](int thread) { sums[thread] = {}; });
            add(args.back[l], width, args.width[l], in);
            block.each([&](int thread) {
                each_unit(thread, 0, width, [&](int64_t n, int u) {
                    const int bits = open[n * Own::kQuads + thread % Own::kQuads];
                    RC_UNROLL
                    for (int q = 0; q < 4; ++q)
                        memory.layer[n * kSlots + Own::quad(thread) + q] =
                            bits >> q & 1 ? sums[thread].value[u][q] : 0.0f;
                });
            });
            in = memory.layer;
        }
        block.each([&](int thread) {
            const Place* const own = memory.place + Own::quad(thread);
            for (int64_t e = 0; e < args.elements; e += kUnits * Own::kStep) {
                sums[thread] = {};
                add_product<kSlots, kUnits>(sums[thread], args.back[0], args.elements,
                                            args.width[0], in, thread, e);
                each_unit(thread, e, args.elements, [&](int64_t n, int u) {
                    RC_UNROLL
                    for (int q = 0; q < 4; ++q)
                        if (own[q].slot >= 0)
                            a.gradient[own[q].slot * args.elements + n] = sums[thread].value[u][q];
                });
            }
        });
    }

    // body(place, lane, x, gradient, point) for the slots in which a thread has a lane
    template <class Body>
    RC_BLOCK void each_lane(Body body) {
        block.each([&](int thread) {
            for (int i = thread / kStepLanes; i < kSlots; i += kThreads / kStepLanes) {
                const int64_t slot = memory.place[i].slot, at = slot * args.elements;
                if (slot >= 0)
                    body(i, thread % kStepLanes, a.x + a.rows[slot] * args.elements,
                         a.gradient + at, a.points + at);
            }
        });
    }

    RC_BLOCK void step() {
        each_lane([&](int i, int lane, const float* x, const float* g, const float* point) {
            double sum[3] = {0.0, 0.0, 0.0};
            for (int64_t e = lane; e < args.elements; e += kStepLanes) {
                const double gradient = g[e], offset = point[e] - x[e];
                if (a.l2) {
                    sum[0] += gradient * gradient;
                    sum[1] += offset * gradient;
                    sum[2] += offset * offset;
                } else {  // how many are of use, and how many of none
                    sum[0] += g[e] != 0.0f;
                    sum[1] += g[e] - g[e] != 0.0f;
                }
            }
            RC_UNROLL
            for (int k = 0; k < 3; ++k) memory.lanes[(i * 3 + k) * kStepLanes + lane] = sum[k];
        });
        block.each([&](int thread) {
            if (thread >= kSlots || memory.place[thread].slot < 0) return;
            Place& own = memory.place[thread];
            const double* const lanes = memory.lanes + thread * 3 * kStepLanes;
            double sum[3] = {0.0, 0.0, 0.0};
            RC_UNROLL
            for (int k = 0; k < 3; ++k)
                for (int lane = 0; lane < kStepLanes; ++lane)
                    sum[k] += lanes[k * kStepLanes + lane];
            own.usable = a.l2 ? gives_direction(sum[0]) : sum[0] > 0.0 && sum[1] == 0.0;
            if (a.l2)
                own.move =
                    l2_step(sum[0], sum[1], sum[2], 1.0f, own.progress.size, own.radius, false);
            stepped(own.progress, own.usable);
        });
        each_lane([&](int i, int lane, const float* x, const float* g, float* point) {
            const Place own = memory.place[i];
            for (int64_t e = lane; e < args.elements; e += kStepLanes) {
                const float offset = point[e] - x[e];
                const float moved = a.l2 ? l2_moved(offset, g[e], own.move, own.usable)
                                         : linf_moved(offset, g[e], 1.0f, own.progress.size,
                                                      own.radius, own.usable);
                const float value = x[e] + moved;
                point[e] = a.has_box ? clip(value, a.low, a.high) : value;
            }
        });
    }
};

// A place whose descent is over takes the next slot, until none is left. Without a ball, gradients.
template <int kSlots, int kUnits, class Block>
RC_BLOCK void ascent_block(Block block, const AscentArgs& a, float* shared) {
    AscentTile<kSlots, kUnits, Block> tile(block, a, shared);
    tile.take(true);
    while (tile.busy()) {
        tile.forward();
        tile.judge();
        tile.backward();
        if (a.ascent.x == nullptr) return;
        tile.step();
        tile.take(false);
    }
}

}  // namespace robustcore
