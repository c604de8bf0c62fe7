// A row of logits to its margin and runner-up; what a tie and a NaN mean.
#pragma once

#include "lanes.h"

namespace robustcore {

template <class T>
struct Margin {
    T margin;           // logit of the label less the largest of the others
    int64_t runner_up;  // lowest class that attains that largest; a NaN is larger than any number
};

// Numbers at equal distances in memory.
template <class T>
struct Spaced {
    T* first;
    int64_t apart;

    RC_FN Spaced(T* begin, int64_t step = 1) : first(begin), apart(step) {}
    RC_FN T& operator[](int64_t i) const { return first[i * apart]; }
};

// Does `value`, met later in the row, replace `best`? A NaN replaces a number and nothing else.
template <class T>
RC_FN bool replaces(T value, T best) {
    return value > best || (value != value && best == best);
}

// K >= 2. A label outside [0, K) reads nothing out of bounds and gives NaN.
template <class T>
RC_FN Margin<T> margin(Spaced<const T> logits, int64_t classes, int64_t label) {
    T own = static_cast<T>(__builtin_nanf(""));
    int64_t runner_up = label == 0 ? 1 : 0;
    T best = logits[runner_up];
    for (int64_t j = 0; j < classes; ++j) {
        if (j == label) {
            own = logits[j];
        } else if (replaces(logits[j], best)) {
            best = logits[j];
            runner_up = j;
        }
    }
    return {own - best, runner_up};
}

template <class T>
RC_FN Margin<T> margin(const T* logits, int64_t classes, int64_t label) {
    return margin(Spaced<const T>(logits), classes, label);
}

// Ties and NaN are errors.
template <class T>
RC_FN bool is_error(T margin) {
    return !(margin > 0);
}

}  // namespace robustcore
