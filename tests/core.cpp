// The headers of csrc/core behind C functions, so that tests call each by itself: see core.py.
//   g++ -O0 -std=c++17 -ffp-contract=off -shared -fPIC -Icsrc tests/core.cpp -o core.so
#include "core/ball.h"
#include "core/block.h"
#include "core/laws.h"
#include "core/lead.h"
#include "core/loss.h"
#include "cpu/normals.h"

using namespace robustcore;

namespace {

// n elements, a register at a time; what is left of the last register holds the first element.
template <class T, class V, class Body>
void by_registers(int64_t n, Body body) {
    constexpr int kLanes = sizeof(V) / sizeof(T);
    for (int64_t first = 0; first < n; first += kLanes) {
        const int64_t held = n - first < kLanes ? n - first : kLanes;
        body(first, held);
    }
}

template <class V, class T>
V load(const T* from, int64_t held, int64_t apart = 1) {
    constexpr int64_t kLanes = sizeof(V) / sizeof(T);
    T lanes[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = from[(i < held ? i : 0) * apart];
    V value;
    memcpy(&value, lanes, sizeof value);
    return value;
}

template <class V, class T>
void store(T* to, V value, int64_t held) {
    memcpy(to, &value, held * sizeof(T));
}

template <class V>
void numbers_of(int64_t law, const uint32_t* first_word, const uint32_t* second_word, int64_t n,
                float* z0, float* z1) {
    by_law(static_cast<Law>(law), [&](auto chosen) {
        by_registers<float, typename V::F>(n, [&](int64_t first, int64_t held) {
            const Normals<V> z =
                numbers<chosen.kLaw, V>(load<typename V::U>(first_word + first, held),
                                        load<typename V::U>(second_word + first, held));
            store(z0 + first, z.z0, held);
            store(z1 + first, z.z1, held);
        });
    });
}

template <class V>
void lead_of(const float* logits, const int32_t* labels, int64_t slots, int64_t classes,
             float* out) {
    by_registers<float, typename V::F>(slots, [&](int64_t first, int64_t held) {
        Lead<V> own = lead<V>(load<typename V::I>(labels + first, held));
        for (int64_t j = 0; j < classes; ++j)
            see(own, load<typename V::F>(logits + first * classes + j, held, classes),
                static_cast<int32_t>(j));
        store(out + first, margin(own), held);
    });
}

template <class T>
void margin_of(const T* logits, int64_t classes, int64_t apart, int64_t label, T* out,
               int64_t* runner_up, bool* error) {
    const Margin<T> m = margin(Spaced<const T>(logits, apart), classes, label);
    *out = m.margin;
    *runner_up = m.runner_up;
    *error = is_error(m.margin);
}

}  // namespace

extern "C" {

void philox_words(const uint32_t* counter, int64_t n, uint32_t k0, uint32_t k1, uint32_t* out) {
    for (int64_t i = 0; i < n; ++i, counter += 4, out += 4) {
        const Words<Scalar> w =
            philox<Scalar>({counter[0], counter[1], counter[2], counter[3]}, {k0, k1});
        const uint64_t words[4] = {w.c0, w.c1, w.c2, w.c3};
        for (int k = 0; k < 4; ++k) out[k] = static_cast<uint32_t>(words[k]);
    }
}

// The same words by way of what lanes share.
void draw_words(const uint32_t* counter, int64_t n, uint32_t k0, uint32_t k1, uint32_t* out) {
    for (int64_t i = 0; i < n; ++i, counter += 4, out += 4) {
        const Draws<Scalar> d = draws<Scalar>(counter[1], counter[2], counter[3], {k0, k1});
        const Words<Scalar> w = words<Scalar>(d, counter[0]);
        const uint64_t words[4] = {w.c0, w.c1, w.c2, w.c3};
        for (int k = 0; k < 4; ++k) out[k] = static_cast<uint32_t>(words[k]);
    }
}

void radii(const uint32_t* word, int64_t n, float* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = radius<Scalar>(word[i]);
}

// law: as of the enumeration. Numbers of pairs of words, z0 and z1 of each.
void numbers_one(int64_t law, const uint32_t* first, const uint32_t* second, int64_t n, float* z0,
                 float* z1) {
    numbers_of<Scalar>(law, first, second, n, z0, z1);
}

void numbers_many(int64_t law, const uint32_t* first, const uint32_t* second, int64_t n, float* z0,
                  float* z1) {
    numbers_of<Vector>(law, first, second, n, z0, z1);
}

void noisy_elements(int64_t law, const float* x, const float* scale, const float* z, int64_t n,
                    float low, float high, float* out) {
    by_law(static_cast<Law>(law), [&](auto chosen) {
        for (int64_t i = 0; i < n; ++i)
            out[i] = noisy<chosen.kLaw>(x[i], scale[i], z[i], low, high);
    });
}

void lead_one(const float* logits, const int32_t* labels, int64_t slots, int64_t classes,
              float* out) {
    lead_of<Scalar>(logits, labels, slots, classes, out);
}

void lead_many(const float* logits, const int32_t* labels, int64_t slots, int64_t classes,
               float* out) {
    lead_of<Vector>(logits, labels, slots, classes, out);
}

void margin_float(const float* logits, int64_t classes, int64_t apart, int64_t label, float* out,
                  int64_t* runner_up, bool* error) {
    margin_of(logits, classes, apart, label, out, runner_up, error);
}

void margin_double(const double* logits, int64_t classes, int64_t apart, int64_t label, double* out,
                   int64_t* runner_up, bool* error) {
    margin_of(logits, classes, apart, label, out, runner_up, error);
}

void gain_of(const float* logits, int64_t classes, int64_t apart, int64_t goal, bool targeted,
             int loss, int64_t wanted, float* margin, float* value, int64_t* found, float* slope) {
    const Gain g = gain(Spaced<const float>(logits, apart), classes, goal, targeted,
                        static_cast<Loss>(loss), wanted, Spaced<float>(slope, apart));
    *margin = g.margin;
    *value = g.gain;
    *found = g.found;
}

double lanes_sum(double* lanes) { return sum_of_lanes(lanes); }

bool usable(double squared) { return gives_direction(squared); }

float clipped(float value, float low, float high) { return clip(value, low, high); }

void step_l2(double squared, double product, double offset_squared, float scale, float step,
             float radius, bool sphere, double* out) {
    const Coefficients c = l2_step(squared, product, offset_squared, scale, step, radius, sphere);
    out[0] = c.old;
    out[1] = c.move;
}

float moved_l2(float offset, float gradient, double old, double move, bool usable) {
    return l2_moved(offset, gradient, {old, move}, usable);
}

float moved_linf(float offset, float gradient, float scale, float step, float radius, bool usable) {
    return linf_moved(offset, gradient, scale, step, radius, usable);
}

// Two phases of a block of 5 threads: each adds one to a count, then reads its neighbour's place.
void block_phases(int64_t* before, int64_t* after) {
    using Block = HostBlock<5>;
    Block block{7};
    Block::Local<int64_t> place;
    int64_t count = 10;
    block.each([&](int thread) { place[thread] = add_one(&count); });
    block.each([&](int thread) {
        before[thread] = place[thread];
        after[thread] = place[(thread + 1) % Block::kSize] + 100 * block.index + 1000 * count;
    });
}

float fused_product(float a, float b, float c) { return contracted(a, b, c); }
}
