// The blocks of the kernels run by one thread of a CPU: for tests, never part of a build.
//   g++ -O1 -std=c++17 -ffp-contract=off -shared -fPIC emulated.cpp bindings.cpp -o _cuda.so
#include <stdlib.h>

#include "dense.h"
#include "launch.h"

using namespace robustcore;

namespace {

template <int kSize, class Body>
void over(int64_t blocks, Body body) {
    for (int64_t b = 0; b < blocks; ++b) body(HostBlock<kSize>{b});
}

double lanes[3 * kSumLanes];

}  // namespace

namespace robustcore {

void launch_perturb(const PerturbArgs& args, void*) {
    over<kThreads>(args.slots * perturb_blocks_per_slot(args),
                   [&](auto block) { perturb_block(block, args); });
}

template <class T>
void launch_margins(const LogitsArgs<T>& args, T* margin, int64_t* runner_up, void*) {
    Best<T> parts[kWarp];
    over<kWarp>(args.slots,
                [&](auto block) { margins_block(block, args, parts, margin, runner_up); });
}

template <class T>
void launch_count_errors(const LogitsArgs<T>& args, int64_t* counts, void*) {
    Best<T> parts[kWarp];
    over<kWarp>(args.slots, [&](auto block) { count_errors_block(block, args, parts, counts); });
}

void launch_ball_step(const BallArgs& args, void*) {
    over<kThreads>(args.slots, [&](auto block) { ball_step_block(block, args, lanes); });
}

void launch_update_best(const BallArgs& args, void*) {
    over<kThreads>(args.slots, [&](auto block) { update_best_block(block, args, lanes); });
}

void launch_dense(const DenseArgs& args, void*) {
    const bool wide = widest(args) > kWideLayer;
    const int64_t slots = wide ? kFewSlots : kManySlots;
    const int64_t floats = wide ? dense_floats<kFewSlots>(args) : dense_floats<kManySlots>(args);
    float* const shared = static_cast<float*>(malloc(floats * sizeof(float)));
    over<kThreads>((args.round.slots + slots - 1) / slots, [&](auto block) {
        for (int64_t i = 0; i < floats; ++i) shared[i] = __builtin_nanf("");
        dense_tile(block, args, shared);
    });
    free(shared);
}

void launch_convolution(const ConvolutionArgs& args, void*) {
    const int64_t floats = convolution_floats(args);
    float* const images = static_cast<float*>(malloc(floats * sizeof(float)));
    over<kThreads>(convolution_blocks(args), [&](auto block) {
        for (int64_t i = 0; i < floats; ++i) images[i] = __builtin_nanf("");
        convolution_block(block, args, images);
    });
    free(images);
}

const char* last_error() { return nullptr; }

int device_count() { return 0; }

template void launch_margins(const LogitsArgs<float>&, float*, int64_t*, void*);
template void launch_margins(const LogitsArgs<double>&, double*, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<float>&, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<double>&, int64_t*, void*);

}  // namespace robustcore
