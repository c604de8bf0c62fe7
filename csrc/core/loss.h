// What an attack raises, and its gradient by the logits; robustcore/gradients.py has the same in
// torch. One row of logits at a time.
#pragma once

#include "margin.h"

namespace robustcore {

enum class Loss { kCrossEntropy, kMargin, kDlr };

RC_FN float exponential(float value) {
#if defined(__CUDA_ARCH__)
    return expf(value);
#else
    return __builtin_expf(value);
#endif
}

RC_FN float logarithm(float value) {
#if defined(__CUDA_ARCH__)
    return logf(value);
#else
    return __builtin_logf(value);
#endif
}

struct Gain {
    float margin, gain;
    int64_t found;  // the class that an error is taken for
};

// A margin as the goal has it: an error where not > 0. With a target an error is that class alone,
// a tie is not yet one, and no NaN ever is.
RC_FN Gain judged(Spaced<const float> logits, int64_t classes, int64_t goal, bool targeted) {
    const Margin<float> m = margin(logits, classes, goal);
    if (!targeted) return {m.margin, 0.0f, m.runner_up};
    if (m.margin > 0.0f) return {-m.margin, 0.0f, goal};
    const float behind = -m.margin;
    if (behind != behind) return {__builtin_inff(), 0.0f, goal};
    return {behind > 1.17549435e-38f ? behind : 1.17549435e-38f, 0.0f, goal};
}

// Puts a class in a place of the ranking by logits where it belongs there, and returns the class
// that goes on to the next place: the one that stood there, or itself. -1 is none. Places are
// single numbers, as an array of them would lie in a GPU's local memory.
RC_FN int64_t displaced(Spaced<const float> logits, int64_t& place, int64_t candidate) {
    if (candidate < 0) return candidate;
    if (place >= 0 && !(logits[candidate] > logits[place])) return candidate;
    const int64_t lower = place;
    place = candidate;
    return lower;
}

// wanted: a class whose lead over the goal is raised, or -1 for the best of all. slope (classes,)
// receives the gradient of the gain. DLR is that of Croce and Hein (2020): three classes at least,
// four with a target; with fewer, the lowest logit stands in for those that are missing.
RC_FN Gain gain(Spaced<const float> logits, int64_t classes, int64_t goal, bool targeted, Loss loss,
                int64_t wanted, Spaced<float> slope) {
    Gain result = judged(logits, classes, goal, targeted);
    int64_t best = goal == 0 ? 1 : 0;
    for (int64_t j = 0; j < classes; ++j)
        if (j != goal && replaces(logits[j], logits[best])) best = j;
    for (int64_t j = 0; j < classes; ++j) slope[j] = 0.0f;
    float value = logits[best];
    if (wanted >= 0) {
        value = logits[wanted];
        slope[wanted] = 1.0f;
    } else if (loss == Loss::kCrossEntropy) {
        // log(1 + exp(gain)) is the cross-entropy: the same direction, and it never vanishes
        float sum = 0.0f;
        for (int64_t j = 0; j < classes; ++j)
            if (j != goal) sum += slope[j] = exponential(logits[j] - logits[best]);
        for (int64_t j = 0; j < classes; ++j) slope[j] = slope[j] / sum;
        value = logits[best] + logarithm(sum);
    } else {
        slope[best] = 1.0f;
    }
    slope[goal] -= 1.0f;
    value = value - logits[goal];
    if (loss == Loss::kDlr) {
        int64_t largest = -1, second = -1, third = -1, fourth = -1;
        for (int64_t j = 0; j < classes; ++j) {
            int64_t left = displaced(logits, largest, j);
            left = displaced(logits, second, left);
            left = displaced(logits, third, left);
            displaced(logits, fourth, left);
        }
        if (classes < 3) third = second;
        if (!targeted || classes < 4) fourth = third;
        const float last = (logits[third] + logits[fourth]) * 0.5f;
        const float spread = logits[largest] - last + 1e-12f;
        for (int64_t j = 0; j < classes; ++j) slope[j] = slope[j] / spread;
        value = value / spread;
        slope[largest] -= value / spread;
        if (third == fourth) {
            slope[third] += value / spread;
        } else {
            slope[third] += value / spread * 0.5f;
            slope[fourth] += value / spread * 0.5f;
        }
    }
    if (targeted)
        for (int64_t j = 0; j < classes; ++j) slope[j] = -slope[j];
    result.gain = targeted ? -value : value;
    return result;
}

}  // namespace robustcore
