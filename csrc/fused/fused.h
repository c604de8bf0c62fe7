// Small networks from noise to counts, a tile of slots at a time. A lane of a register is a slot;
// a unit is one number of a network's state, held for all slots of a tile side by side. So every
// layer is one operation, the product of a matrix with units found by tables of offsets, and no
// image, hidden layer or logit of a tile leaves the cache.
#pragma once

#include <stdint.h>

#include "../core/loss.h"
#include "../core/philox.h"

namespace robustcore {

// One layer, or one step of its gradient. All offsets count units.
struct Stage {
    enum Kind {
        // out[row[c] + to[p]] = act(bias[c] + sum over t of weight[c][t] * in[from[p] + tap[t]])
        kProduct,
        // out[row[c] + to[p]] = the largest over t of in[plane[c] + from[p] + tap[t]]
        kMaximum,
        // out[plane[c] + from[p] + tap[t]] = in[row[c] + to[p]] for the first t that attained the
        // maximum, which is value[row[c] + to[p]]; 0 for the others, and behind a ReLU that shut
        kRoute
    };
    Kind kind;
    bool relu;
    int in, out;
    int mask;   // passes only where this buffer, laid out as out, is positive; -1: everywhere
    int value;  // kRoute alone
    int64_t channels, taps, positions;
    int64_t window;  // 1, or 4: of four positions one after the other the largest is kept
    const int32_t *tap, *from, *to, *row, *plane;
    const float *weight, *bias;  // weight: finite, blocks of channels (see blocks), tap by tap
};

// Channels that a block holds at most: with four columns of them accumulators fill the registers.
RC_FN int64_t blocks(int64_t channels, int64_t most) { return (channels + most - 1) / most; }
RC_FN int64_t block_start(int64_t channels, int64_t count, int64_t block) {
    const int64_t small = channels / count, larger = channels % count;
    return block * small + (block < larger ? block : larger);
}

struct Net {
    int64_t elements;       // of an image
    const int32_t* place;   // (elements,) the unit of the input buffer 0 that holds each
    const int32_t* memory;  // the same for points, in their own order
    int64_t buffers;
    const int64_t* size;       // units of each buffer
    const float* const* fill;  // (units,) what each holds at first: padding
    int64_t forward, stages;   // those of the forward pass, then those of the gradient
    const Stage* stage;
    int64_t classes;
    int logits, gradient, slope;  // buffers: logits, the loss's gradient there and at the input
    bool dense;                   // no convolution: four registers of slots to a tile, else one
    bool rows;  // dense, with gradients: a slot to a row, blocks of channels being whole registers
};

// A batch of slots. Either a table, rows and samples of each, or all draws of a range for each
// image, at each sigma of a grid.
struct Round {
    const float* x;  // (batch, elements)
    const int64_t* ids;
    const float* base;  // null, or (batch, channels): the first layer's answer to each image
    bool has_clip;
    float low, high;
    Key key;
    uint32_t stream;
    int64_t slots;
    const int64_t *rows, *samples;
    const float* sigma;          // of each slot, or the grid
    float* logits;               // (slots, classes)
    int64_t grid, draws, first;  // sizes of the grid; draws [first, first + draws) of each image
    const int64_t* labels;
    int64_t* counts;  // (batch, grid)
    int64_t* next;    // the tile to be taken next, shared by all workers
};

// Gradients at points, and descents from them. Points are rows in the order of Net::memory.
struct Ascent {
    int64_t slots;
    const int64_t *rows, *goal;  // of each slot; of each image
    const int64_t* order;        // slots as a descent takes them: those of an image side by side
    const int64_t* wanted;       // null, or of each slot a class or -1
    bool targeted;
    Loss loss;
    float* points;    // (slots, elements); a descent leaves its last point
    float* gradient;  // (slots, elements); null in a descent
    float *margin, *gain;
    int64_t* found;
    // A descent alone: see robustcore/attack/projected.py.
    const float* x;              // (batch, elements)
    const float *radius, *size;  // of each slot
    int64_t steps;
    bool l2, adapts, has_box;
    float low, high;
    int64_t* age;   // steps taken
    bool* usable;   // was any gradient of use?
    int64_t* next;  // the slot to be taken next, shared by all workers
};

// Elements [begin, begin + n) of the draws of slots, in whole groups: element begin + e of slot i
// goes to z[e * slots + i]. Slots fill registers, begin is a group's first element.
using Noise = void(float* z, int64_t begin, int64_t n, int64_t slots, const uint32_t* sample,
                   const uint32_t* id, uint32_t stream, Key key);
extern Noise noise_baseline, noise_avx2, noise_avx512;

struct FusedBodies {
    const char* name;
    int64_t channels_at_once;
    int64_t register_lanes, registers_at_once;  // the same for rows
    int64_t (*lanes)(const Net& net);           // slots of a tile
    int64_t (*scratch)(const Net& net);         // floats that a worker needs
    void (*run)(const Net& net, const Round& round, float* scratch);
    int64_t (*ascent_scratch)(const Net& net);
    void (*differentiate)(const Net& net, const Ascent& ascent, float* scratch);
    void (*descend)(const Net& net, const Ascent& ascent, float* scratch);
};
extern const FusedBodies fused_baseline, fused_avx2, fused_avx512;

}  // namespace robustcore
