// A dense network from noise to counts as one block of threads to a tile of slots: noise and hidden
// layers stay in shared memory, sums of the first layer in registers. Each sum is made in the order
// that csrc/fused uses on a CPU with contraction, so logits have the same bits.
#pragma once

#include "../fused/fused.h"
#include "blocks.h"

namespace robustcore {

constexpr int kDenseLayers = 4;

struct Dense {
    int64_t elements, layers;
    int64_t width[kDenseLayers];  // of each layer; the last is the number of classes
    bool relu[kDenseLayers];
    const float* weight[kDenseLayers];  // (inputs, width): a row for each input
    const float* bias[kDenseLayers];
};

struct DenseArgs : Dense {
    Round round;  // with a base
};

// Slots of a tile: more of them use a weight more often, wide layers leave memory for few.
constexpr int64_t kManySlots = 32, kFewSlots = 16;
constexpr int64_t kWideLayer = 512;

RC_FN int64_t widest(const Dense& a) {
    int64_t most = 0;
    for (int64_t i = 0; i < a.layers; ++i) most = a.width[i] > most ? a.width[i] : most;
    return most;
}

// Floats of shared memory: noise of 64 elements, and two layers.
template <int kSlots>
RC_FN int64_t dense_floats(const Dense& a) {
    return (64 + 2 * widest(a)) * kSlots;
}

template <int kSlotsOf, int kUnitsOf>
struct Shape {
    static constexpr int kSlots = kSlotsOf, kUnits = kUnitsOf;
};

// start(Shape): how many slots a block takes and how many units a thread. From the widths alone, so
// that the same network always runs the same way.
template <class Start>
void dense_shape(const Dense& a, Start start) {
    if (widest(a) > kWideLayer)
        start(Shape<kFewSlots, 16>{});
    else if (a.width[0] > 4 * (kThreads / (kManySlots / 4)))
        start(Shape<kManySlots, 16>{});
    else
        start(Shape<kManySlots, 4>{});
}

inline int64_t dense_bytes(const Dense& a) {
    int64_t floats = 0;
    dense_shape(a, [&](auto shape) { floats = dense_floats<shape.kSlots>(a); });
    return 4 * floats;
}

// A thread's part of a layer: four slots side by side of kUnits units.
template <int kUnits>
struct Sums {
    float value[kUnits][4];
};

template <int kSlots, int kUnits>
struct Share {
    static constexpr int kQuads = kSlots / 4;
    static constexpr int kStep = kThreads / kQuads;  // units that the block covers at once
    static RC_FN int quad(int thread) { return thread % kQuads * 4; }
    static RC_FN int64_t unit(int thread, int u) { return thread / kQuads + u * kStep; }
};

// sums += weight^T in, for the inputs [0, held) that start at `from` of the weight's rows.
template <int kSlots, int kUnits>
RC_FN void add_product(Sums<kUnits>& sums, const float* weight, int64_t width, int64_t held,
                       const float* in, int thread, int64_t first) {
    using Own = Share<kSlots, kUnits>;
    const int64_t own = first + Own::unit(thread, 0);
    const int left = static_cast<int>(width - own);
    in += Own::quad(thread);
    weight += own;
    // more of it would take the registers of another block
    RC_UNROLL_TWICE
    for (int64_t k = 0; k < held; ++k, in += kSlots, weight += width) {
        const Quad x = *reinterpret_cast<const Quad*>(in);
        RC_UNROLL
        for (int u = 0; u < kUnits; ++u) {
            if (u * Own::kStep >= left) continue;
            const float w = weight[u * Own::kStep];
            RC_UNROLL
            for (int q = 0; q < 4; ++q)
                sums.value[u][q] = contracted(x.value[q], w, sums.value[u][q]);
        }
    }
}

RC_FN float rectified(float value) { return value < 0.0f ? 0.0f : value; }

template <int kSlots, int kUnits, class Block>
RC_BLOCK void dense_block(Block block, const DenseArgs& a, float* shared) {
    using Own = Share<kSlots, kUnits>;
    const Round& r = a.round;
    float* const noise = shared;
    float* const hidden = shared + 64 * kSlots;
    const int64_t start = block.index * kSlots;
    const auto slot_of = [&](int i) -> int64_t {
        return start + i < r.slots ? start + i : r.slots - 1;
    };
    const auto row_of = [&](int i) -> int64_t {
        return r.rows ? r.rows[slot_of(i)] : slot_of(i) / r.draws;
    };
    typename Block::template Local<Sums<kUnits>> sums;
    block.each([&](int thread) { sums[thread] = {}; });
    for (int64_t e = 0; e < a.elements; e += 64) {
        const int64_t held = a.elements - e < 64 ? a.elements - e : 64;
        block.each([&](int thread) {
            for (int c = thread; c < 16 * kSlots; c += kThreads) {
                const int i = c % kSlots, b = c / kSlots;
                if (b >= held) continue;
                const int64_t s = slot_of(i);
                const uint64_t sample = r.rows ? r.samples[s] : r.first + s % r.draws;
                const Words<Scalar> w =
                    philox<Scalar>({static_cast<uint64_t>(e / 4 + b), sample,
                                    static_cast<uint64_t>(r.ids[row_of(i)]), r.stream},
                                   r.key);
                const Normals<Scalar> first =
                    normals<Scalar>(static_cast<uint32_t>(w.c0), static_cast<uint32_t>(w.c1));
                noise[b * kSlots + i] = first.z0;
                noise[(b + 16) * kSlots + i] = first.z1;
                if (b + 32 >= held) continue;
                const Normals<Scalar> second =
                    normals<Scalar>(static_cast<uint32_t>(w.c2), static_cast<uint32_t>(w.c3));
                noise[(b + 32) * kSlots + i] = second.z0;
                noise[(b + 48) * kSlots + i] = second.z1;
            }
        });
        block.each([&](int thread) {
            add_product<kSlots, kUnits>(sums[thread], a.weight[0] + e * a.width[0], a.width[0],
                                        held, noise, thread, 0);
        });
    }
    const int64_t sigmas = r.rows ? 1 : r.grid;
    for (int64_t g = 0; g < sigmas; ++g) {
        block.each([&](int thread) {
            const int64_t own = Own::unit(thread, 0);
            const int left = static_cast<int>(a.width[0] - own);
            RC_UNROLL
            for (int q = 0; q < 4; ++q) {
                const int i = Own::quad(thread) + q;
                const float sigma = r.rows ? r.sigma[slot_of(i)] : r.sigma[g];
                const float* const base = r.base + row_of(i) * a.width[0] + own;
                float* const to = hidden + own * kSlots + i;
                RC_UNROLL
                for (int u = 0; u < kUnits; ++u) {
                    if (u * Own::kStep >= left) continue;
                    const float value =
                        contracted(sigma, sums[thread].value[u][q], base[u * Own::kStep]);
                    to[u * Own::kStep * kSlots] = a.relu[0] ? rectified(value) : value;
                }
            }
        });
        float *in = hidden, *out = hidden + widest(a) * kSlots;
        for (int64_t l = 1; l < a.layers; ++l) {
            block.each([&](int thread) {
                for (int64_t first = 0; first < a.width[l]; first += 4 * Own::kStep) {
                    const int64_t begin = first + Own::unit(thread, 0);
                    const int left = static_cast<int>(a.width[l] - begin);
                    Sums<4> own = {};
                    RC_UNROLL
                    for (int u = 0; u < 4; ++u) {
                        if (u * Own::kStep >= left) continue;
                        const float bias = a.bias[l][begin + u * Own::kStep];
                        RC_UNROLL
                        for (int q = 0; q < 4; ++q) own.value[u][q] = bias;
                    }
                    add_product<kSlots, 4>(own, a.weight[l], a.width[l], a.width[l - 1], in, thread,
                                           first);
                    RC_UNROLL
                    for (int u = 0; u < 4; ++u) {
                        if (u * Own::kStep >= left) continue;
                        float* const to =
                            out + (begin + u * Own::kStep) * kSlots + Own::quad(thread);
                        RC_UNROLL
                        for (int q = 0; q < 4; ++q)
                            to[q] = a.relu[l] ? rectified(own.value[u][q]) : own.value[u][q];
                    }
                }
            });
            float* const next = out;
            out = in;
            in = next;
        }
        const float* const logits = in;
        const int64_t classes = a.width[a.layers - 1];
        block.each([&](int thread) {
            if (thread >= kSlots || start + thread >= r.slots) return;
            const Spaced<const float> own(logits + thread, kSlots);
            if (r.rows) {
                for (int64_t j = 0; j < classes; ++j)
                    r.logits[(start + thread) * classes + j] = own[j];
                return;
            }
            const int64_t row = row_of(thread);
            if (is_error(margin(own, classes, r.labels[row]).margin))
                add_one(&r.counts[row * r.grid + g]);
        });
    }
}

}  // namespace robustcore
