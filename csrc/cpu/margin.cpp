// margins and count_errors: rows of logits divided among threads.
#include "../core/margin.h"

#include "kernels.h"

namespace robustcore {
namespace {

constexpr int64_t kLogitsAtOnce = 1 << 15;

template <class T>
Margin<T> slot_margin(const LogitsArgs<T>& args, int64_t slot) {
    return margin(args.logits + slot * args.stride, args.classes, args.labels[args.rows[slot]]);
}

template <class Body>
void over_slots(int64_t slots, int64_t classes, int threads, Body body) {
    const int64_t grain = classes < kLogitsAtOnce ? kLogitsAtOnce / classes : 1;
    parallel_for(
        slots, grain, threads,
        [](void* context, int64_t first, int64_t last) {
            for (int64_t s = first; s < last; ++s) (*static_cast<Body*>(context))(s);
        },
        &body);
}

}  // namespace

template <class T>
void margins(const LogitsArgs<T>& args, int threads, T* out, int64_t* runner_up) {
    over_slots(args.slots, args.classes, threads, [&](int64_t s) {
        const Margin<T> m = slot_margin(args, s);
        out[s] = m.margin;
        runner_up[s] = m.runner_up;
    });
}

template <class T>
void count_errors(const LogitsArgs<T>& args, int threads, int64_t* counts) {
    over_slots(args.slots, args.classes, threads, [&](int64_t s) {
        if (args.rows[s] < 0 || !is_error(slot_margin(args, s).margin)) return;
        __atomic_fetch_add(&counts[args.rows[s]], int64_t{1}, __ATOMIC_RELAXED);
    });
}

template void margins(const LogitsArgs<float>&, int, float*, int64_t*);
template void margins(const LogitsArgs<double>&, int, double*, int64_t*);
template void count_errors(const LogitsArgs<float>&, int, int64_t*);
template void count_errors(const LogitsArgs<double>&, int, int64_t*);

}  // namespace robustcore
