// How a descent goes on from one evaluation to the next, whatever body makes its steps;
// robustcore/attack/projected.py has the same for those of single steps.
#pragma once

#include "fused.h"

namespace robustcore {

constexpr int kPatience = 2;    // steps without progress before a step is halved
constexpr float kLast = 0.05f;  // of the radius: a step that is too short to go on

struct Progress {
    int64_t age;  // steps taken
    int since;    // steps without progress
    bool stuck;   // the last gradient gave no direction
    bool useful;  // some gradient did
    float size, best;
};

RC_FN Progress started(float size) { return {0, 0, false, false, size, -__builtin_inff()}; }

// Whether the descent is over, after an evaluation.
RC_FN bool is_over(Progress& own, const Ascent& a, float radius, const Gain& seen) {
    bool done = !(seen.margin > 0.0f) || own.stuck || own.age >= a.steps;
    if (a.adapts) {
        const bool better = seen.gain > own.best;
        own.best = better ? seen.gain : own.best;
        own.since = better ? 0 : own.since + 1;
        if (own.since >= kPatience) {
            own.size = own.size / 2;
            own.since = 0;
        }
        done = done || own.size < kLast * radius;
    }
    return done;
}

RC_FN void stepped(Progress& own, bool usable) {
    own.age += 1;
    own.stuck = !usable;
    own.useful |= usable;
}

RC_FN void tell(const Ascent& a, int64_t slot, const Gain& seen) {
    a.margin[slot] = seen.margin;
    a.gain[slot] = seen.gain;
    a.found[slot] = seen.found;
}

RC_FN void tell(const Ascent& a, int64_t slot, const Progress& own) {
    a.age[slot] = own.age;
    a.usable[slot] = own.useful;
}

}  // namespace robustcore
