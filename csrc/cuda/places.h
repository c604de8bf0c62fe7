// What a block keeps while it differentiates or descends, and where; ascent.h has its work.
#pragma once

#include "../core/ball.h"
#include "../fused/descent.h"
#include "dense.h"

namespace robustcore {

struct AscentArgs : Dense {
    const float* back[kDenseLayers];  // (width, inputs): the weights, a row for each unit
    Ascent ascent;  // gradient: of a descent too, as memory; x: of a descent alone
};

constexpr int kStepLanes = 16;  // threads that sum a slot's lengths

// A slot's place in a tile.
struct Place {
    int64_t slot;  // or one of the two below
    Progress progress;
    float radius;
    bool usable;
    Coefficients move;  // of an l2 step
};
constexpr int64_t kFree = -1, kClosed = -2;  // closed: there are no more slots

// Where a tile has what, in a block's memory.
template <int kSlots>
struct AscentMemory {
    static constexpr int64_t kQuads = kSlots / 4;
    Place* place;
    double* lanes;  // (kSlots, 3, kStepLanes): parts of sums
    float* stage;   // (64, kSlots): elements of points; while there are no parts of sums
    float* layer;   // (widest, kSlots): a layer, then the gradient by it
    float* slope;   // (classes, kSlots): the gradient by the logits
    uint8_t* open;  // (hidden units, kQuads): a bit of each slot, where ReLU passes

    RC_FN AscentMemory(const Dense& a, float* shared) {
        place = reinterpret_cast<Place*>(shared);
        lanes = reinterpret_cast<double*>(place + kSlots);
        stage = reinterpret_cast<float*>(lanes);
        layer = reinterpret_cast<float*>(lanes + 3 * kStepLanes * kSlots);
        slope = layer + widest(a) * kSlots;
        open = reinterpret_cast<uint8_t*>(slope + a.width[a.layers - 1] * kSlots);
    }
};

template <int kSlots>
RC_FN int64_t ascent_floats(const Dense& a) {
    const int64_t fixed = sizeof(Place) + 3 * kStepLanes * sizeof(double);
    int64_t bytes = (fixed + 4 * (widest(a) + a.width[a.layers - 1])) * kSlots;
    for (int64_t l = 0; l + 1 < a.layers; ++l) bytes += a.width[l] * (kSlots / 4);
    return (bytes + 3) / 4;
}

// As dense_shape; a thread's units times those beside it are at least the widest layer.
template <class Start>
void ascent_shape(const Dense& a, Start start) {
    constexpr int64_t kStep = kThreads / (kManySlots / 4);
    const int64_t most = widest(a);
    if (most <= 4 * kStep)
        start(Shape<kManySlots, 4>{});
    else if (most <= 8 * kStep)
        start(Shape<kManySlots, 8>{});
    else if (most <= kWideLayer)
        start(Shape<kManySlots, 16>{});
    else
        start(Shape<kFewSlots, 16>{});
}

inline int64_t ascent_bytes(const Dense& a) {
    int64_t floats = 0;
    ascent_shape(a, [&](auto shape) { floats = ascent_floats<shape.kSlots>(a); });
    return 4 * floats;
}

}  // namespace robustcore
