// Blocks to grids: nothing but launches. The maths is in ../core, a block's work in blocks.h.
#include "launch.h"

namespace robustcore {
namespace {

const char* error = nullptr;

void check() {
    const cudaError_t code = cudaGetLastError();
    error = code == cudaSuccess ? nullptr : cudaGetErrorString(code);
}

template <int kSize>
__device__ DeviceBlock<kSize> this_block() {
    return {static_cast<int64_t>(blockIdx.x)};
}

template <Law kLaw>
__global__ void __launch_bounds__(kThreads) perturb_kernel(const PerturbArgs args) {
    perturb_block<kLaw>(this_block<kThreads>(), args);
}

template <class T>
__global__ void __launch_bounds__(kWarp)
    margins_kernel(const LogitsArgs<T> args, T* margin, int64_t* runner_up) {
    __shared__ Best<T> parts[kWarp];
    margins_block(this_block<kWarp>(), args, parts, margin, runner_up);
}

template <class T>
__global__ void __launch_bounds__(kWarp)
    count_errors_kernel(const LogitsArgs<T> args, int64_t* counts) {
    __shared__ Best<T> parts[kWarp];
    count_errors_block(this_block<kWarp>(), args, parts, counts);
}

__global__ void __launch_bounds__(kThreads) ball_step_kernel(const BallArgs args) {
    __shared__ double lanes[3 * kSumLanes];
    ball_step_block(this_block<kThreads>(), args, lanes);
}

__global__ void __launch_bounds__(kThreads) update_best_kernel(const BallArgs args) {
    __shared__ double lanes[kSumLanes];
    update_best_block(this_block<kThreads>(), args, lanes);
}

// That a multiprocessor holds at once: so many registers a thread may take.
template <int kUnits>
constexpr int kBlocks = kUnits > 4 ? 2 : 3;

template <int kSlots, int kUnits>
__global__ void __launch_bounds__(kThreads, kBlocks<kUnits>) dense_kernel(const DenseArgs args) {
    extern __shared__ __align__(16) float shared[];
    dense_block<kSlots, kUnits>(this_block<kThreads>(), args, shared);
}

template <int kSlots, int kUnits>
__global__ void __launch_bounds__(kThreads, kBlocks<kUnits>) ascent_kernel(const AscentArgs args) {
    extern __shared__ __align__(16) float shared[];
    ascent_block<kSlots, kUnits>(this_block<kThreads>(), args, shared);
}

__global__ void __launch_bounds__(kThreads) convolution_kernel(const ConvolutionArgs args) {
    extern __shared__ __align__(16) float shared[];
    convolution_block(this_block<kThreads>(), args, shared);
}

// Shared memory beyond 48 KiB is had only when asked for.
template <class Kernel>
int allowed(Kernel kernel, int64_t floats) {
    const int bytes = static_cast<int>(floats * sizeof(float));
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    return bytes;
}

unsigned count(int64_t blocks) { return static_cast<unsigned>(blocks); }

cudaStream_t on(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

void launch_perturb(const PerturbArgs& args, void* stream) {
    const unsigned tiles = count(args.slots * perturb_blocks_per_slot(args));
    by_law(args.law,
           [&](auto law) { perturb_kernel<law.kLaw><<<tiles, kThreads, 0, on(stream)>>>(args); });
    check();
}

template <class T>
void launch_margins(const LogitsArgs<T>& args, T* margin, int64_t* runner_up, void* stream) {
    margins_kernel<<<count(args.slots), kWarp, 0, on(stream)>>>(args, margin, runner_up);
    check();
}

template <class T>
void launch_count_errors(const LogitsArgs<T>& args, int64_t* counts, void* stream) {
    count_errors_kernel<<<count(args.slots), kWarp, 0, on(stream)>>>(args, counts);
    check();
}

void launch_ball_step(const BallArgs& args, void* stream) {
    ball_step_kernel<<<count(args.slots), kThreads, 0, on(stream)>>>(args);
    check();
}

void launch_update_best(const BallArgs& args, void* stream) {
    update_best_kernel<<<count(args.slots), kThreads, 0, on(stream)>>>(args);
    check();
}

void launch_dense(const DenseArgs& args, void* stream) {
    dense_shape(args, [&](auto shape) {
        constexpr int kSlots = shape.kSlots, kUnits = shape.kUnits;
        const unsigned tiles = count(blocks(args.round.slots, kSlots));
        const int bytes = allowed(dense_kernel<kSlots, kUnits>, dense_floats<kSlots>(args));
        dense_kernel<kSlots, kUnits><<<tiles, kThreads, bytes, on(stream)>>>(args);
    });
    check();
}

void launch_ascent(const AscentArgs& args, void* stream) {
    ascent_shape(args, [&](auto shape) {
        constexpr int kSlots = shape.kSlots, kUnits = shape.kUnits;
        const unsigned tiles = count(blocks(args.ascent.slots, kSlots));
        const int bytes = allowed(ascent_kernel<kSlots, kUnits>, ascent_floats<kSlots>(args));
        ascent_kernel<kSlots, kUnits><<<tiles, kThreads, bytes, on(stream)>>>(args);
    });
    check();
}

void launch_convolution(const ConvolutionArgs& args, void* stream) {
    const int bytes = allowed(convolution_kernel, convolution_floats(args));
    convolution_kernel<<<count(convolution_blocks(args)), kThreads, bytes, on(stream)>>>(args);
    check();
}

const char* last_error() { return error; }

int64_t block_bytes(int device) {
    int bytes = 0;
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return bytes;
}

int device_count() {
    int found = 0;
    return cudaGetDeviceCount(&found) == cudaSuccess ? found : 0;
}

template void launch_margins(const LogitsArgs<float>&, float*, int64_t*, void*);
template void launch_margins(const LogitsArgs<double>&, double*, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<float>&, int64_t*, void*);
template void launch_count_errors(const LogitsArgs<double>&, int64_t*, void*);

}  // namespace robustcore
