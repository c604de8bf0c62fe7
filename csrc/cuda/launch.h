// The kernels as plain functions that start them on a stream; errors are raised by the caller from
// what last_error says.
#pragma once

#include "ascent.h"
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
void launch_ascent(const AscentArgs& args, void* stream);
void launch_convolution(const ConvolutionArgs& args, void* stream);

// Null, or what went wrong with the last launch.
const char* last_error();
int device_count();
// Bytes that a block may share.
int64_t block_bytes(int device);

}  // namespace robustcore
