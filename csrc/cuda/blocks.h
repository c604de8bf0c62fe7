// The kernels as blocks of threads: what each block does. Contracts:
// robustcore/kernels/__init__.py.
#pragma once

#include "../core/ball.h"
#include "../core/block.h"
#include "../core/margin.h"
#include "../core/laws.h"
#include "../cpu/kernels.h"

namespace robustcore {

#if defined(__CUDACC__)
#define RC_BLOCK __device__ __forceinline__
#define RC_UNROLL _Pragma("unroll")
#define RC_UNROLL_TWICE _Pragma("unroll 2")
#else
#define RC_BLOCK inline
#define RC_UNROLL
#define RC_UNROLL_TWICE
#endif

constexpr int kThreads = 256;

struct alignas(16) Quad {  // read at once
    float value[4];
};

RC_FN float finished(const PerturbArgs& a, int64_t channel, float value) {
    if (a.has_clip) value = clip(value, a.low, a.high);
    if (a.mean != nullptr) {
        value = value - a.mean[channel];
        value = value * a.inv_std[channel];
    }
    return value;
}

RC_FN int64_t counters_of(int64_t elements) { return (elements + 63) / 64 * 16; }

RC_FN int64_t perturb_blocks_per_slot(const PerturbArgs& a) {
    return (counters_of(a.channels * a.pixels) + kThreads - 1) / kThreads;
}

// The four elements of a slot's noisy image that counter n makes: write(e, channel, value).
template <Law kLaw, class Write>
RC_FN void noisy_elements(const PerturbArgs& a, int64_t slot, int64_t n, Write write) {
    const int64_t row = a.rows[slot], elements = a.channels * a.pixels;
    const Words<Scalar> w =
        philox<Scalar>({static_cast<uint64_t>(n), static_cast<uint64_t>(a.samples[slot]),
                        static_cast<uint64_t>(a.ids[row]), a.stream},
                       a.key);
    const Normals<Scalar> first =
        numbers<kLaw, Scalar>(static_cast<uint32_t>(w.c0), static_cast<uint32_t>(w.c1));
    const Normals<Scalar> second =
        numbers<kLaw, Scalar>(static_cast<uint32_t>(w.c2), static_cast<uint32_t>(w.c3));
    const float z[4] = {first.z0, first.z1, second.z0, second.z1}, sigma = a.sigma[slot];
    for (int k = 0; k < 4; ++k) {
        const int64_t e = n / 16 * 64 + n % 16 + 16 * k;
        if (e >= elements) continue;
        const int64_t channel = e / a.pixels;
        const float x = a.x[row * elements + e];
        write(e, channel, finished(a, channel, noisy<kLaw>(x, sigma, z[k], a.pepper, a.salt)));
    }
}

// A thread makes one counter, hence four elements.
template <Law kLaw, class Block>
RC_BLOCK void perturb_block(Block block, const PerturbArgs& a) {
    const int64_t tiles = perturb_blocks_per_slot(a), elements = a.channels * a.pixels;
    const int64_t slot = block.index / tiles;
    float* const out = a.out + slot * elements;
    block.each([&](int thread) {
        const int64_t n = block.index % tiles * kThreads + thread;
        if (n >= counters_of(elements)) return;
        noisy_elements<kLaw>(a, slot, n, [&](int64_t e, int64_t channel, float value) {
            out[a.channels_last ? (e - channel * a.pixels) * a.channels + channel : e] = value;
        });
    });
}

constexpr int kWarp = 32;

template <class T>
struct Best {
    T value;
    int64_t at;  // -1: none yet
};

// Thirty-two threads to a row of logits; parts are joined so that the lowest of equals wins.
template <class Block, class T>
RC_BLOCK Margin<T> row_margin(Block& block, const LogitsArgs<T>& a, Best<T>* parts) {
    const int64_t slot = block.index, label = a.labels[a.rows[slot]];
    const T* const logits = a.logits + slot * a.stride;
    block.each([&](int thread) {
        Best<T> best = {T{}, -1};
        for (int64_t j = thread; j < a.classes; j += kWarp) {
            if (j == label) continue;
            const T value = logits[j];
            if (best.at < 0 || replaces(value, best.value)) best = {value, j};
        }
        parts[thread] = best;
    });
    Best<T> best = parts[0];
    for (int i = 1; i < kWarp; ++i) {
        const Best<T> other = parts[i];
        if (other.at < 0) continue;
        const bool equal =
            other.value == best.value || (other.value != other.value && best.value != best.value);
        if (best.at < 0 || replaces(other.value, best.value) || (equal && other.at < best.at))
            best = other;
    }
    const bool inside = label >= 0 && label < a.classes;
    const T own = inside ? logits[label] : static_cast<T>(__builtin_nanf(""));
    return {own - best.value, best.at};
}

template <class Block, class T>
RC_BLOCK void margins_block(Block block, const LogitsArgs<T>& a, Best<T>* parts, T* margin,
                            int64_t* runner_up) {
    const Margin<T> m = row_margin(block, a, parts);
    block.each([&](int thread) {
        if (thread != 0) return;
        margin[block.index] = m.margin;
        runner_up[block.index] = m.runner_up;
    });
}

template <class Block, class T>
RC_BLOCK void count_errors_block(Block block, const LogitsArgs<T>& a, Best<T>* parts,
                                 int64_t* counts) {
    const int64_t row = a.rows[block.index];
    if (row < 0) return;  // padding
    const Margin<T> m = row_margin(block, a, parts);
    block.each([&](int thread) {
        if (thread == 0 && is_error(m.margin)) add_one(&counts[row]);
    });
}

// Lane i is summed by thread i; then halves are added. lanes: (sums, 256).
template <class Block>
RC_BLOCK void add_halves(Block& block, double* lanes, int sums) {
    for (int width = kSumLanes / 2; width > 0; width /= 2)
        block.each([&](int thread) {
            if (thread >= width) return;
            for (int k = 0; k < sums; ++k) {
                double* const own = lanes + k * kSumLanes;
                own[thread] = own[thread] + own[thread + width];
            }
        });
}

template <class Block>
RC_BLOCK void ball_step_block(Block block, const BallArgs& a, double* lanes) {
    const int64_t s = block.index, n = a.elements;
    const float* const x = a.x + a.rows[s] * n;
    const float* const g = a.gradient + s * n;
    float* const o = a.offset + s * n;
    float* const p = a.points + s * n;
    block.each([&](int thread) {
        double squared = 0.0, product = 0.0, length = 0.0;
        for (int64_t e = thread; e < n; e += kSumLanes) {
            const double gradient = g[e], offset = o[e];
            squared += gradient * gradient;
            product += offset * gradient;
            length += offset * offset;
        }
        lanes[thread] = squared;
        lanes[kSumLanes + thread] = product;
        lanes[2 * kSumLanes + thread] = length;
    });
    add_halves(block, lanes, 3);
    const double squared = lanes[0];
    const bool usable = gives_direction(squared);
    const float scale = a.scale[s], step = a.step[s], radius = a.radius[s];
    const Coefficients c =
        l2_step(squared, lanes[kSumLanes], lanes[2 * kSumLanes], scale, step, radius, a.sphere);
    block.each([&](int thread) {
        if (thread == 0) a.usable[s] = usable;
        for (int64_t e = thread; e < n; e += kThreads) {
            const float moved = a.l2 ? l2_moved(o[e], g[e], c, usable)
                                     : linf_moved(o[e], g[e], scale, step, radius, usable);
            const float clean = x[e];
            float point = clean + moved;
            if (a.has_box) point = clip(point, a.low, a.high);
            p[e] = point;
            o[e] = a.sphere ? moved : point - clean;
        }
    });
}

// The larger of the two; a NaN is larger than any number, and so stays.
RC_FN double larger(double value, double most) {
    return value > most || value != value ? value : most;
}

template <class Block>
RC_BLOCK void update_best_block(Block block, const BallArgs& a, double* lanes) {
    const int64_t s = block.index, n = a.elements;
    const float* const x = a.x + a.rows[s] * n;
    const float* const p = a.points + s * n;
    block.each([&](int thread) {
        double sum = 0.0;
        for (int64_t e = thread; e < n; e += kSumLanes) {
            const double away = static_cast<double>(p[e]) - x[e];
            sum = a.l2 ? sum + away * away : larger(away < 0.0 ? -away : away, sum);
        }
        lanes[thread] = sum;
    });
    double away;
    if (a.l2) {
        add_halves(block, lanes, 1);
        away = root(lanes[0]);
    } else {
        away = 0.0;
        for (int i = 0; i < kSumLanes; ++i) away = larger(lanes[i], away);
    }
    const bool nearer = !(a.margin[s] > 0.0) && away < a.distance[s];
    block.each([&](int thread) {
        for (int64_t e = thread; nearer && e < n; e += kThreads) a.best[s * n + e] = p[e];
    });
    block.each([&](int thread) {
        if (thread != 0) return;
        a.away[s] = away;
        if (nearer) a.distance[s] = away;
    });
}

}  // namespace robustcore
