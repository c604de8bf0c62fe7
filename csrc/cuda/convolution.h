// Noisy images and the first convolution of them, a block of threads to a few slots: the images lie
// in shared memory alone. Each sum is made in the order that csrc/fused uses on a CPU with
// contraction, so answers have the same bits. Tables: robustcore/fused/convolved.py.
#pragma once

#include "blocks.h"

namespace robustcore {

struct ConvolutionArgs {
    PerturbArgs noise;     // out: (slots, channels, answers)
    const int32_t* place;  // (elements,) where an image's elements lie in shared memory
    const float* fill;     // null, or (units,) what is there before them: padding
    const int32_t* tap;    // (taps,)
    const int32_t* start;  // (kPositions, columns)
    const float* weight;   // (blocks of kChannels, taps, kChannels)
    const float* bias;     // (blocks x kChannels,)
    int64_t units, taps, columns, channels, answers;
    bool relu, maximum;  // of the four positions of a column, which are then one answer
};

// What a thread makes: each weight is used kPositions times, each number of the image kChannels.
constexpr int64_t kPositions = 4, kChannels = 8;
// Floats of the images of a block; one of them may be larger, to what a block may have.
constexpr int64_t kImages = 6144;
constexpr int64_t kMostImages = 8;

// From the network alone, so that it always runs the same way.
RC_FN int64_t convolution_slots(const ConvolutionArgs& a) {
    const int64_t held = kImages / a.units;
    return held < 1 ? 1 : held > kMostImages ? kMostImages : held;
}

RC_FN int64_t convolution_blocks(const ConvolutionArgs& a) {
    const int64_t held = convolution_slots(a);
    return (a.noise.slots + held - 1) / held;
}

RC_FN int64_t convolution_floats(const ConvolutionArgs& a) {
    return convolution_slots(a) * a.units;
}

// The answers of kChannels channels from `first` at one column of positions.
RC_FN void convolve(const ConvolutionArgs& a, const float* image, int64_t column, int64_t first,
                    float* out) {
    const float* from[kPositions];
    float sums[kChannels][kPositions];
    RC_UNROLL
    for (int p = 0; p < kPositions; ++p) from[p] = image + a.start[p * a.columns + column];
    RC_UNROLL
    for (int c = 0; c < kChannels; ++c) {
        const float bias = a.bias[first + c];
        RC_UNROLL
        for (int p = 0; p < kPositions; ++p) sums[c][p] = bias;
    }
    const Quad* weight = reinterpret_cast<const Quad*>(a.weight + first * a.taps);
    for (int64_t t = 0; t < a.taps; ++t, weight += kChannels / 4) {
        const int64_t tap = a.tap[t];
        float x[kPositions];
        RC_UNROLL
        for (int p = 0; p < kPositions; ++p) x[p] = from[p][tap];
        RC_UNROLL
        for (int q = 0; q < kChannels / 4; ++q) {
            const Quad w = weight[q];
            RC_UNROLL
            for (int c = 0; c < 4; ++c) {
                RC_UNROLL
                for (int p = 0; p < kPositions; ++p)
                    sums[4 * q + c][p] = contracted(x[p], w.value[c], sums[4 * q + c][p]);
            }
        }
    }
    RC_UNROLL
    for (int c = 0; c < kChannels; ++c) {
        if (first + c >= a.channels) continue;
        float* const answers = out + (first + c) * a.answers;
        float most = 0.0f;
        RC_UNROLL
        for (int p = 0; p < kPositions; ++p) {
            const float sum = sums[c][p];
            const float value = a.relu && sum < 0.0f ? 0.0f : sum;
            most = p == 0 || replaces(value, most) ? value : most;
            const int64_t position = p * a.columns + column;
            if (!a.maximum && position < a.answers) answers[position] = value;
        }
        if (a.maximum) answers[column] = most;
    }
}

template <class Block>
RC_BLOCK void convolution_block(Block block, const ConvolutionArgs& a, float* images) {
    const int64_t most = convolution_slots(a), start = block.index * most;
    const int64_t held = a.noise.slots - start < most ? a.noise.slots - start : most;
    const int64_t counters = counters_of(a.noise.channels * a.noise.pixels);
    const int64_t groups = (a.channels + kChannels - 1) / kChannels, size = a.channels * a.answers;
    if (a.fill)
        block.each([&](int thread) {
            for (int64_t i = thread; i < held * a.units; i += kThreads)
                images[i] = a.fill[i % a.units];
        });
    block.each([&](int thread) {
        for (int64_t i = thread; i < held * counters; i += kThreads) {
            const int64_t slot = i / counters;
            float* const image = images + slot * a.units;
            noisy_elements<Law::kGaussian>(
                a.noise, start + slot, i - slot * counters,
                [&](int64_t e, int64_t, float value) { image[a.place[e]] = value; });
        }
    });
    block.each([&](int thread) {
        for (int64_t i = thread; i < held * groups * a.columns; i += kThreads) {
            const int64_t column = i % a.columns, slot = i / a.columns / groups;
            const int64_t first = i / a.columns % groups * kChannels;
            convolve(a, images + slot * a.units, column, first,
                     a.noise.out + (start + slot) * size);
        }
    });
}

}  // namespace robustcore
