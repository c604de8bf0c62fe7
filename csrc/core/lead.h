// Margins of many slots at once: a lane is a slot. The rules of margin.h: ties and NaN are errors.
#pragma once

#include "lanes.h"

namespace robustcore {

template <class V>
struct Lead {
    typename V::F own, best;
    typename V::I label;
};

template <class V>
RC_FN Lead<V> lead(typename V::I label) {
    const typename V::F zero = {};
    return {zero + __builtin_nanf(""), zero - __builtin_inff(), label};
}

// The logits of class j. A NaN replaces a number and nothing replaces a NaN.
template <class V>
RC_FN void see(Lead<V>& lead, typename V::F logit, int32_t j) {
    const typename V::I mine = lead.label == j;
    const typename V::I better =
        (logit > lead.best) | ((logit != logit) & (lead.best == lead.best));
    lead.own = mine ? logit : lead.own;
    lead.best = (better & ~mine) ? logit : lead.best;
}

template <class V>
RC_FN typename V::F margin(const Lead<V>& lead) {
    return lead.own - lead.best;
}

}  // namespace robustcore
