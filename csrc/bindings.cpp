// The only file that sees Python. Tensors arrive as addresses and sizes, so that one build serves
// every torch; robustcore/kernels/native.py checks shapes and types before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;
using namespace robustcore;

namespace {

constexpr int64_t kTilesAtOnce = 16;
constexpr int64_t kElementsAtOnce = 1 << 15;

using Box = std::optional<std::pair<float, float>>;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Instruction sets this machine runs, best first.
std::vector<const Bodies*> runnable() {
    std::vector<const Bodies*> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512);
    if (__builtin_cpu_supports("avx2")) found.push_back(&avx2);
#endif
    found.push_back(&baseline);
    return found;
}

const Bodies& bodies(const std::string& isa) {
    static const auto known = runnable();
    for (const Bodies* one : known)
        if (isa.empty() || isa == one->name) return *one;
    throw py::value_error("isa must be one that this machine runs; got '" + isa + "'");
}

// A row outside the batch would read or write memory that is not ours.
void check_rows(const int64_t* rows, int64_t slots, int64_t lowest, int64_t batch) {
    for (int64_t s = 0; s < slots; ++s)
        if (rows[s] < lowest || rows[s] >= batch)
            throw py::value_error("rows must lie in [" + std::to_string(lowest) + ", " +
                                  std::to_string(batch) + "); got " + std::to_string(rows[s]));
}

void perturb(uintptr_t x, uintptr_t rows, uintptr_t sigma, uintptr_t samples, uintptr_t ids,
             uintptr_t out, std::array<int64_t, 4> sizes, bool channels_last, uint64_t seed,
             uint32_t stream, int law, Box levels, Box clip, uintptr_t mean, uintptr_t inv_std,
             int threads, const std::string& isa) {
    const auto [slots, batch, channels, pixels] = sizes;
    PerturbArgs args{};
    args.x = pointer<const float>(x);
    args.rows = pointer<const int64_t>(rows);
    args.sigma = pointer<const float>(sigma);
    args.samples = pointer<const int64_t>(samples);
    args.ids = pointer<const int64_t>(ids);
    args.out = pointer<float>(out);
    args.slots = slots;
    args.channels = channels;
    args.pixels = pixels;
    args.channels_last = channels_last;
    args.key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    args.stream = stream;
    args.law = static_cast<Law>(law);
    if (levels) std::tie(args.pepper, args.salt) = *levels;
    args.has_clip = clip.has_value();
    if (clip) std::tie(args.low, args.high) = *clip;
    args.mean = pointer<const float>(mean);
    args.inv_std = pointer<const float>(inv_std);

    check_rows(args.rows, slots, 0, batch);
    struct Work {
        const PerturbArgs& args;
        const Bodies& bodies;
    } work{args, bodies(isa)};
    const py::gil_scoped_release release;
    parallel_for(
        slots * tiles_per_slot(args), kTilesAtOnce, threads,
        [](void* context, int64_t first, int64_t last) {
            const Work& own = *static_cast<Work*>(context);
            own.bodies.perturb(own.args, first, last);
        },
        &work);
}

const BallBodies& ball_bodies(const std::string& isa) {
    const Bodies* const found = &bodies(isa);
#if defined(__x86_64__)
    if (found == &avx512) return ball_avx512;
    if (found == &avx2) return ball_avx2;
#endif
    (void)found;
    return ball_baseline;
}

BallArgs ball_args(uintptr_t x, uintptr_t rows, std::array<int64_t, 3> sizes, bool l2,
                   const Box& box) {
    const auto [slots, batch, elements] = sizes;
    BallArgs args{};
    args.x = pointer<const float>(x);
    args.rows = pointer<const int64_t>(rows);
    args.slots = slots;
    args.elements = elements;
    args.l2 = l2;
    args.has_box = box.has_value();
    if (box) std::tie(args.low, args.high) = *box;
    check_rows(args.rows, slots, 0, batch);
    return args;
}

void over_slots(const BallArgs& args, void (*body)(const BallArgs&, int64_t, int64_t),
                int threads) {
    struct Work {
        const BallArgs& args;
        void (*body)(const BallArgs&, int64_t, int64_t);
    } work{args, body};
    const int64_t grain = kElementsAtOnce / std::clamp<int64_t>(args.elements, 1, kElementsAtOnce);
    const py::gil_scoped_release release;
    parallel_for(
        args.slots, grain, threads,
        [](void* context, int64_t first, int64_t last) {
            const Work& own = *static_cast<Work*>(context);
            own.body(own.args, first, last);
        },
        &work);
}

void random_start(uintptr_t radius, uintptr_t restarts, uintptr_t ids, uintptr_t out, int64_t slots,
                  int64_t elements, bool l2, uint64_t seed, uint32_t stream, int threads,
                  const std::string& isa) {
    BallArgs args{};
    args.slots = slots;
    args.elements = elements;
    args.l2 = l2;
    args.radius = pointer<const float>(radius);
    args.restarts = pointer<const int64_t>(restarts);
    args.ids = pointer<const int64_t>(ids);
    args.points = pointer<float>(out);
    args.key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    args.stream = stream;
    over_slots(args, ball_bodies(isa).random_start, threads);
}

void ball_step(uintptr_t x, uintptr_t rows, std::array<int64_t, 3> sizes, bool l2, const Box& box,
               uintptr_t offset, uintptr_t gradient, uintptr_t scale, uintptr_t step,
               uintptr_t radius, uintptr_t points, bool sphere, uintptr_t usable, int threads,
               const std::string& isa) {
    BallArgs args = ball_args(x, rows, sizes, l2, box);
    args.offset = pointer<float>(offset);
    args.gradient = pointer<const float>(gradient);
    args.scale = pointer<const float>(scale);
    args.step = pointer<const float>(step);
    args.radius = pointer<const float>(radius);
    args.points = pointer<float>(points);
    args.sphere = sphere;
    args.usable = pointer<bool>(usable);
    over_slots(args, ball_bodies(isa).step, threads);
}

void ball_slope(uintptr_t x, uintptr_t rows, std::array<int64_t, 3> sizes, bool l2, const Box& box,
                uintptr_t offset, uintptr_t gradient, uintptr_t slope, int threads,
                const std::string& isa) {
    BallArgs args = ball_args(x, rows, sizes, l2, box);
    args.offset = pointer<float>(offset);
    args.gradient = pointer<const float>(gradient);
    args.slope = pointer<double>(slope);
    over_slots(args, ball_bodies(isa).slope, threads);
}

void update_best(uintptr_t x, uintptr_t rows, std::array<int64_t, 3> sizes, bool l2,
                 uintptr_t points, uintptr_t margin, uintptr_t distance, uintptr_t best,
                 uintptr_t away, int threads, const std::string& isa) {
    BallArgs args = ball_args(x, rows, sizes, l2, std::nullopt);
    args.points = pointer<float>(points);
    args.margin = pointer<const double>(margin);
    args.distance = pointer<double>(distance);
    args.best = pointer<float>(best);
    args.away = pointer<double>(away);
    over_slots(args, ball_bodies(isa).best, threads);
}

void philox_words(uintptr_t counter, int64_t n, std::pair<uint32_t, uint32_t> key, uintptr_t words,
                  const std::string& isa) {
    bodies(isa).philox(pointer<const int64_t>(counter), n, {key.first, key.second},
                       pointer<int64_t>(words));
}

template <class T>
LogitsArgs<T> logits_args(uintptr_t logits, std::array<int64_t, 4> sizes, uintptr_t labels,
                          uintptr_t rows, int64_t lowest_row) {
    const auto [slots, classes, stride, batch] = sizes;
    check_rows(pointer<const int64_t>(rows), slots, lowest_row, batch);
    return {pointer<const T>(logits),    slots, classes, stride, pointer<const int64_t>(labels),
            pointer<const int64_t>(rows)};
}

template <class T>
void margins_of(uintptr_t logits, std::array<int64_t, 4> sizes, uintptr_t labels, uintptr_t rows,
                uintptr_t margin, uintptr_t runner_up, int threads) {
    const LogitsArgs<T> args = logits_args<T>(logits, sizes, labels, rows, 0);
    const py::gil_scoped_release release;
    margins(args, threads, pointer<T>(margin), pointer<int64_t>(runner_up));
}

template <class T>
void count_errors_of(uintptr_t logits, std::array<int64_t, 4> sizes, uintptr_t labels,
                     uintptr_t rows, uintptr_t counts, int threads) {
    const LogitsArgs<T> args = logits_args<T>(logits, sizes, labels, rows, INT64_MIN);
    const py::gil_scoped_release release;
    count_errors(args, threads, pointer<int64_t>(counts));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "The C++ kernels; robustcore.kernels.native is their door.";
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Bodies* one : runnable()) names.emplace_back(one->name);
        return names;
    });
    m.def("perturb", &perturb);
    m.def("philox", &philox_words);
    m.def("random_start", &random_start);
    m.def("ball_step", &ball_step);
    m.def("ball_slope", &ball_slope);
    m.def("update_best", &update_best);
    m.def("margins_float32", &margins_of<float>);
    m.def("margins_float64", &margins_of<double>);
    m.def("count_errors_float32", &count_errors_of<float>);
    m.def("count_errors_float64", &count_errors_of<double>);
}
