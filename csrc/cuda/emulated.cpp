// The blocks of the kernels run by one thread of a CPU: for tests, never part of a build.
//   g++ -O1 -std=c++17 -ffp-contract=off -shared -fPIC emulated.cpp bindings.cpp -o _cuda.so
#include <stdlib.h>

#include "launch.h"

using namespace robustcore;

namespace {

template <int kSize, class Body>
void over(int64_t blocks, Body body) {
    for (int64_t b = 0; b < blocks; ++b) body(HostBlock<kSize>{b});
}

// With memory that each block finds full of NaN.
template <int kSize, class Body>
void sharing(int64_t blocks, int64_t floats, Body body) {
    float* const shared = static_cast<float*>(malloc(floats * sizeof(float)));
    over<kSize>(blocks, [&](auto block) {
        for (int64_t i = 0; i < floats; ++i) shared[i] = __builtin_nanf("");
        body(block, shared);
    });
    free(shared);
}

double lanes[3 * kSumLanes];

}  // namespace

namespace robustcore {

void launch_perturb(const PerturbArgs& args, void*) {
    by_law(args.law, [&](auto law) {
        over<kThreads>(args.slots * perturb_blocks_per_slot(args),
                       [&](auto block) { perturb_block<law.kLaw>(block, args); });
    });
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
    dense_shape(args, [&](auto shape) {
        constexpr int kSlots = shape.kSlots, kUnits = shape.kUnits;
        sharing<kThreads>(
            blocks(args.round.slots, kSlots), dense_floats<kSlots>(args),
            [&](auto block, float* shared) { dense_block<kSlots, kUnits>(block, args, shared); });
    });
}

void launch_ascent(const AscentArgs& args, void*) {
    ascent_shape(args, [&](auto shape) {
        constexpr int kSlots = shape.kSlots, kUnits = shape.kUnits;
        sharing<kThreads>(
            blocks(args.ascent.slots, kSlots), ascent_floats<kSlots>(args),
            [&](auto block, float* shared) { ascent_block<kSlots, kUnits>(block, args, shared); });
    });
}

void launch_convolution(const ConvolutionArgs& args, void*) {
    sharing<kThreads>(convolution_blocks(args), convolution_floats(args),
                      [&](auto block, float* images) { convolution_block(block, args, images); });
}

const char* last_error() { return nullptr; }

int device_count() { return 0; }

int64_t block_bytes(int) { return 163 * 1024; }  // as the least of those it is built for has

template void launch_margins(const LogitsArgs<float>&, float*, int64_t*, void*);
template void launch_margins(const LogitsArgs<double>&, double*, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<float>&, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<double>&, int64_t*, void*);

}  // namespace robustcore
