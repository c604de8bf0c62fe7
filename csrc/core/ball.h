// Steps in l2 and linf balls: what happens to one element, and to one slot's sums and coefficients.
#pragma once

#include "lanes.h"

namespace robustcore {

// Sums over a slot's elements: element e goes to lane e % kSumLanes in turn, then halves are added.
constexpr int kSumLanes = 256;

RC_FN double sum_of_lanes(double* lanes) {
    for (int width = kSumLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] = lanes[i] + lanes[i + width];
    return lanes[0];
}

RC_FN double root(double value) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(value);
#else
    return __builtin_sqrt(value);
#endif
}

RC_FN float clip(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

// A gradient whose squared length is zero, NaN or infinite gives no direction.
RC_FN bool gives_direction(double squared) { return squared > 0.0 && squared < __builtin_inf(); }

// The l2 step: offset' = offset * old + gradient * move.
struct Coefficients {
    double old, move;
};

RC_FN Coefficients l2_step(double squared, double product, double offset_squared, float scale,
                           float step, float radius, bool sphere) {
    const bool usable = gives_direction(squared);
    const double factor = scale, reach = radius;
    const double along = usable ? step / root(squared) : 0.0;
    product = usable ? product : 0.0;
    double grown = factor * factor * offset_squared + 2.0 * (factor * (along * product));
    grown = grown + (usable ? along * along * squared : 0.0);
    const double length = root(grown > 0.0 ? grown : 0.0);
    const double shrink = length > (sphere ? 0.0 : reach) ? reach / length : 1.0;
    return {factor * shrink, along * shrink};
}

RC_FN float l2_moved(float offset, float gradient, Coefficients c, bool usable) {
    const double kept = offset * c.old;
    return static_cast<float>(kept + (usable ? gradient * c.move : 0.0));
}

RC_FN float linf_moved(float offset, float gradient, float scale, float step, float radius,
                       bool usable) {
    const float sign = usable ? static_cast<float>((gradient > 0.0f) - (gradient < 0.0f)) : 0.0f;
    const float kept = scale * offset;
    const float moved = kept + step * sign;
    return moved > radius ? radius : (moved < -radius ? -radius : moved);
}

}  // namespace robustcore
