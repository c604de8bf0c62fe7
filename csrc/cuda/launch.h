// The kernels as plain functions that start them on a stream; errors are raised by the caller from
// what last_error says.
#pragma once

#include "convolution.h"
#include "dense.h"

namespace robustcore {

void launch_perturb(const PerturbArgs& args, void* stream);
template <class T>
void launch_margins(const LogitsArgs<T>& args, T* margin, int64_t* runner_up, void* stream);
template <class T>
void launch_count_errors(const LogitsArgs<T>& args, int64_t* counts, void* stream);
void launch_ball_step(const BallArgs& args, void* stream);
void launch_update_best(const BallArgs& args, void* stream);
void launch_dense(const DenseArgs& args, void* stream);
void launch_convolution(const ConvolutionArgs& args, void* stream);

// Null, or what went wrong with the last launch.
const char* last_error();
int device_count();

// How many slots a block takes and how many units a thread: from the widths alone, so that the same
// network always runs the same way.
template <class Block>
RC_BLOCK void dense_tile(Block block, const DenseArgs& a, float* shared) {
    if (widest(a) > kWideLayer)
        dense_block<kFewSlots, 16>(block, a, shared);
    else if (a.width[0] > 4 * (kThreads / (kManySlots / 4)))
        dense_block<kManySlots, 16>(block, a, shared);
    else
        dense_block<kManySlots, 4>(block, a, shared);
}

}  // namespace robustcore
