// The kernels of the image corruptions as plain functions of pointers and sizes; contracts in
// robustcore/corruptions/kernels.py.
#pragma once

#include "../cpu/kernels.h"

// One body for each instruction set, chosen when the library is loaded. Nothing is contracted, so
// that all of them give the same bits.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)  // musl cannot choose
#define RC_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define RC_CLONES
#endif

namespace robustcore {

// Names the draws of a batch: image ids[b], the rest shared.
struct Draws {
    const int64_t* ids;
    int64_t batch;
    uint32_t sample, stream;
    Key key;
};

// A body for piece i of a job, run over [0, n) on up to `threads` threads.
template <class Body>
void parallel(int64_t n, int threads, Body& body) {
    parallel_for(
        n, 1, threads,
        [](void* context, int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) (*static_cast<Body*>(context))(i);
        },
        &body);
}

void uniforms(const Draws& draws, int64_t elements, float* out, int threads);
void poisson(const Draws& draws, int64_t elements, const float* mean, float* out, int threads);
void shuffle_order(const Draws& draws, int64_t height, int64_t width, int64_t reach, int64_t passes,
                   int64_t* order, int threads);

enum class Border { kEdge, kMirror };

// out[b, c, y, x] = sum over t of weight[b, t] * x[b, c, y + dy[b, t], x + dx[b, t]].
struct TapsArgs {
    const float* x;
    int64_t batch, channels, height, width, taps;
    const int64_t *dy, *dx;
    const float* weight;
    Border border;
    float* out;
};
void taps(const TapsArgs& args, int threads);

// Row i of a banded matrix holds weight[i * band .. ] at columns low[i] and on.
struct Bands {
    const int64_t* low;
    const float* weight;
    int64_t rows, band;
};

// out[p] = sum over k of rows_k x[p] columns_k^T, the terms one after another in `low`, `weight`.
struct SeparableArgs {
    const float* x;
    int64_t planes, height, width, terms;
    Bands rows, columns;
    float* out;
};
void separable(const SeparableArgs& args, int threads);

// out[p, i, j] = x[p, rows[i], columns[j]]: planes of `height` x `width` to `tall` x `wide`.
struct SpreadArgs {
    const float* x;
    int64_t planes, height, width, tall, wide;
    const int32_t *rows, *columns;
    float* out;
};
void spread(const SpreadArgs& args, int threads);

// Floats (batch, 3, height, width), as bytes 255 x + add cut down, through a JPEG file of a quality
// of 1 to 100 and back.
void jpeg(const float* x, int64_t batch, int64_t height, int64_t width, int quality, float add,
          float* out, int threads);

void wet_edges(const uint8_t* layer, int64_t batch, int64_t height, int64_t width, float* out,
               int threads);

}  // namespace robustcore
