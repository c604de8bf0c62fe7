// The CUDA kernels as Python sees them: addresses, sizes and a stream; robustcore/kernels/cuda.py
// checks shapes and types. Importing this needs no driver; a launch without one raises.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "../fused/round.h"
#include "launch.h"

namespace py = pybind11;
using namespace robustcore;

namespace {

void raise_on_error() {
    if (const char* const error = last_error())
        throw std::runtime_error(std::string("a CUDA kernel could not be started: ") + error);
}

// tensors: x, rows, sigma, samples, ids, out; sizes: slots, channels, pixels.
PerturbArgs perturb_args(std::array<uintptr_t, 6> tensors, std::array<int64_t, 3> sizes,
                         std::pair<uint64_t, uint32_t> names, Range range) {
    PerturbArgs args{};
    args.x = pointer<const float>(tensors[0]);
    args.rows = pointer<const int64_t>(tensors[1]);
    args.sigma = pointer<const float>(tensors[2]);
    args.samples = pointer<const int64_t>(tensors[3]);
    args.ids = pointer<const int64_t>(tensors[4]);
    args.out = pointer<float>(tensors[5]);
    args.slots = sizes[0];
    args.channels = sizes[1];
    args.pixels = sizes[2];
    args.key = key_of(names.first);
    args.stream = names.second;
    args.has_clip = range.has_value();
    if (range) std::tie(args.low, args.high) = *range;
    return args;
}

void perturb(std::array<uintptr_t, 6> tensors, std::array<int64_t, 3> sizes, bool channels_last,
             std::pair<uint64_t, uint32_t> names, int law, Range levels, Range range,
             std::array<uintptr_t, 2> normalise, uintptr_t stream) {
    PerturbArgs args = perturb_args(tensors, sizes, names, range);
    args.channels_last = channels_last;
    args.law = static_cast<Law>(law);
    if (levels) std::tie(args.pepper, args.salt) = *levels;
    args.mean = pointer<const float>(normalise[0]);
    args.inv_std = pointer<const float>(normalise[1]);
    launch_perturb(args, pointer<void>(stream));
    raise_on_error();
}

// tables: place, fill, tap, start, weight, bias; shape: units, taps, columns and what is answered.
void convolution(std::array<uintptr_t, 6> tensors, std::array<int64_t, 3> sizes,
                 std::pair<uint64_t, uint32_t> names, Range range, std::array<uintptr_t, 6> tables,
                 std::array<int64_t, 6> shape, bool relu, bool maximum, uintptr_t stream) {
    ConvolutionArgs args{};
    args.noise = perturb_args(tensors, sizes, names, range);
    args.place = pointer<const int32_t>(tables[0]);
    args.fill = pointer<const float>(tables[1]);
    args.tap = pointer<const int32_t>(tables[2]);
    args.start = pointer<const int32_t>(tables[3]);
    args.weight = pointer<const float>(tables[4]);
    args.bias = pointer<const float>(tables[5]);
    args.units = shape[0];
    args.taps = shape[1];
    args.columns = shape[2];
    args.channels = shape[3];
    args.answers = shape[4] * shape[5];
    args.relu = relu;
    args.maximum = maximum;
    launch_convolution(args, pointer<void>(stream));
    raise_on_error();
}

template <class T>
LogitsArgs<T> logits_args(std::array<uintptr_t, 3> tensors, std::array<int64_t, 3> sizes) {
    return {pointer<const T>(tensors[0]),
            sizes[0],
            sizes[1],
            sizes[2],
            pointer<const int64_t>(tensors[1]),
            pointer<const int64_t>(tensors[2])};
}

template <class T>
void margins_of(std::array<uintptr_t, 3> tensors, std::array<int64_t, 3> sizes, uintptr_t margin,
                uintptr_t runner_up, uintptr_t stream) {
    launch_margins(logits_args<T>(tensors, sizes), pointer<T>(margin), pointer<int64_t>(runner_up),
                   pointer<void>(stream));
    raise_on_error();
}

template <class T>
void count_errors_of(std::array<uintptr_t, 3> tensors, std::array<int64_t, 3> sizes,
                     uintptr_t counts, uintptr_t stream) {
    launch_count_errors(logits_args<T>(tensors, sizes), pointer<int64_t>(counts),
                        pointer<void>(stream));
    raise_on_error();
}

BallArgs ball_args(uintptr_t x, uintptr_t rows, std::array<int64_t, 2> sizes, bool l2,
                   uintptr_t points) {
    BallArgs args{};
    args.x = pointer<const float>(x);
    args.rows = pointer<const int64_t>(rows);
    args.slots = sizes[0];
    args.elements = sizes[1];
    args.l2 = l2;
    args.points = pointer<float>(points);
    return args;
}

void ball_step(uintptr_t x, uintptr_t rows, std::array<int64_t, 2> sizes, bool l2, uintptr_t points,
               std::array<uintptr_t, 6> tensors, Range box, bool sphere, uintptr_t stream) {
    BallArgs args = ball_args(x, rows, sizes, l2, points);
    args.offset = pointer<float>(tensors[0]);
    args.gradient = pointer<const float>(tensors[1]);
    args.scale = pointer<const float>(tensors[2]);
    args.step = pointer<const float>(tensors[3]);
    args.radius = pointer<const float>(tensors[4]);
    args.usable = pointer<bool>(tensors[5]);
    args.has_box = box.has_value();
    if (box) std::tie(args.low, args.high) = *box;
    args.sphere = sphere;
    launch_ball_step(args, pointer<void>(stream));
    raise_on_error();
}

void update_best(uintptr_t x, uintptr_t rows, std::array<int64_t, 2> sizes, bool l2,
                 uintptr_t points, std::array<uintptr_t, 4> tensors, uintptr_t stream) {
    BallArgs args = ball_args(x, rows, sizes, l2, points);
    args.margin = pointer<const double>(tensors[0]);
    args.distance = pointer<double>(tensors[1]);
    args.best = pointer<float>(tensors[2]);
    args.away = pointer<double>(tensors[3]);
    launch_update_best(args, pointer<void>(stream));
    raise_on_error();
}

constexpr char kLayers[] = "a dense network has 1 to 4 layers";

// Layers: width, relu, weight (inputs, width), bias, and of an ascent weight (width, inputs).
using Layers = std::vector<std::tuple<int64_t, bool, std::vector<uintptr_t>>>;

void read(const Layers& layers, int64_t elements, Dense& args, const float** back = nullptr) {
    if (layers.empty() || layers.size() > kDenseLayers) throw py::value_error(kLayers);
    args.elements = elements;
    args.layers = static_cast<int64_t>(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        const std::vector<uintptr_t>& tensors = std::get<2>(layers[i]);
        args.width[i] = std::get<0>(layers[i]);
        args.relu[i] = std::get<1>(layers[i]);
        args.weight[i] = pointer<const float>(tensors.at(0));
        args.bias[i] = pointer<const float>(tensors.at(1));
        if (back) back[i] = pointer<const float>(tensors.at(2));
    }
}

// Bytes that a block shares when a network counts, and when it descends; what it may.
std::array<int64_t, 3> memory(const std::vector<int64_t>& widths, int device) {
    if (widths.empty() || widths.size() > kDenseLayers) throw py::value_error(kLayers);
    Dense args{};
    args.layers = static_cast<int64_t>(widths.size());
    std::copy(widths.begin(), widths.end(), args.width);
    return {dense_bytes(args), ascent_bytes(args), block_bytes(device)};
}

void dense(int64_t elements, const Layers& layers, std::array<uintptr_t, 8> tensors,
           std::array<int64_t, 5> sizes, std::pair<uint64_t, uint32_t> names, uintptr_t stream) {
    DenseArgs args{};
    read(layers, elements, args);
    args.round = round_of(tensors, sizes, names, {});
    launch_dense(args, pointer<void>(stream));
    raise_on_error();
}

// tensors: points, rows, goal, wanted or null, gradient, margin, gain, found, next; ball: x,
// radius, size, age, usable, or null of a gradient; how it descends: steps, adapts, l2.
void ascent(int64_t elements, const Layers& layers, std::array<uintptr_t, 9> tensors, int64_t slots,
            bool targeted, int loss, std::array<uintptr_t, 5> ball,
            std::tuple<int64_t, bool, bool> how, Range box, uintptr_t stream) {
    AscentArgs args{};
    read(layers, elements, args, args.back);
    Ascent& own = args.ascent;
    own.points = pointer<float>(tensors[0]);
    own.rows = pointer<const int64_t>(tensors[1]);
    own.goal = pointer<const int64_t>(tensors[2]);
    own.wanted = pointer<const int64_t>(tensors[3]);
    own.gradient = pointer<float>(tensors[4]);
    own.margin = pointer<float>(tensors[5]);
    own.gain = pointer<float>(tensors[6]);
    own.found = pointer<int64_t>(tensors[7]);
    own.next = pointer<int64_t>(tensors[8]);
    own.slots = slots;
    own.targeted = targeted;
    own.loss = static_cast<Loss>(loss);
    own.x = pointer<const float>(ball[0]);
    own.radius = pointer<const float>(ball[1]);
    own.size = pointer<const float>(ball[2]);
    own.age = pointer<int64_t>(ball[3]);
    own.usable = pointer<bool>(ball[4]);
    std::tie(own.steps, own.adapts, own.l2) = how;
    own.has_box = box.has_value();
    if (box) std::tie(own.low, own.high) = *box;
    launch_ascent(args, pointer<void>(stream));
    raise_on_error();
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() =
        "The CUDA kernels; robustcore.kernels.cuda and robustcore.fused.cuda are their doors.";
    m.def("device_count", &device_count);
    m.def("perturb", &perturb);
    m.def("margins_float32", &margins_of<float>);
    m.def("margins_float64", &margins_of<double>);
    m.def("count_errors_float32", &count_errors_of<float>);
    m.def("count_errors_float64", &count_errors_of<double>);
    m.def("ball_step", &ball_step);
    m.def("update_best", &update_best);
    m.def("memory", &memory);
    m.def("dense", &dense);
    m.def("ascent", &ascent);
    m.def("convolution", &convolution);
}
