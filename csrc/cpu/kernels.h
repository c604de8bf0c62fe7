// The CPU kernels as plain functions of pointers and sizes; contracts in
// robustcore/kernels/__init__.py.
#pragma once

#include <stdint.h>

#include "../core/laws.h"
#include "../core/philox.h"

namespace robustcore {

// A batch of slots to perturb. Images are (channels, pixels), C order.
struct PerturbArgs {
    const float* x;
    const int64_t* rows;
    const float* sigma;  // the scale of the law
    const int64_t* samples;
    const int64_t* ids;
    float* out;
    int64_t slots, channels, pixels;
    bool channels_last;
    Key key;
    uint32_t stream;
    Law law;
    float pepper, salt;  // levels of salt and pepper
    bool has_clip;
    float low, high;
    const float* mean;  // null: no normalisation
    const float* inv_std;
};

// Elements a unit of work covers in each channel (channels_last) or in all (contiguous): its
// noise stays in the first-level cache.
constexpr int64_t kTile = 1024;

RC_FN int64_t tiles_per_slot(const PerturbArgs& args) {
    const int64_t length = args.channels_last ? args.pixels : args.channels * args.pixels;
    return (length + kTile - 1) / kTile;
}

// What is compiled once for each instruction set.
struct Bodies {
    const char* name;
    // Units of work [first, last) of slots * tiles_per_slot.
    void (*perturb)(const PerturbArgs& args, int64_t first, int64_t last);
    // n counters of four words to four words each.
    void (*philox)(const int64_t* counter, int64_t n, Key key, int64_t* words);
};
extern const Bodies baseline, avx2, avx512;

// `body(context, first, last)` over [0, n) in pieces of `grain`, on up to `threads` threads.
void parallel_for(int64_t n, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                  void* context);

// Logits are (slots, classes) with `stride` elements from row to row.
template <class T>
struct LogitsArgs {
    const T* logits;
    int64_t slots, classes, stride;
    const int64_t* labels;
    const int64_t* rows;
};

// A batch of slots in balls: images are rows of `elements`, rows[s] the image of slot s.
struct BallArgs {
    const float* x;
    const int64_t* rows;
    int64_t slots, elements;
    bool l2, has_box, sphere;
    float low, high;
    float* points;
    float* offset;
    const float* gradient;
    const float *scale, *step, *radius;
    bool* usable;
    double* slope;  // (slots, 2): dual norm, derivative along the offset
    const double* margin;
    double *distance, *away;
    float* best;
    const int64_t *restarts, *ids;  // of each slot
    Key key;
    uint32_t stream;
};

// As Bodies: slots [first, last).
struct BallBodies {
    void (*random_start)(const BallArgs& args, int64_t first, int64_t last);  // fills points
    void (*step)(const BallArgs& args, int64_t first, int64_t last);
    void (*slope)(const BallArgs& args, int64_t first, int64_t last);
    void (*best)(const BallArgs& args, int64_t first, int64_t last);
};
extern const BallBodies ball_baseline, ball_avx2, ball_avx512;

template <class T>
void margins(const LogitsArgs<T>& args, int threads, T* margin, int64_t* runner_up);
template <class T>
void count_errors(const LogitsArgs<T>& args, int threads, int64_t* counts);

}  // namespace robustcore
