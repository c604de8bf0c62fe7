// The CUDA kernels as Python sees them: addresses, sizes and a stream; robustcore/kernels/cuda.py
// checks shapes and types. Importing this needs no driver; a launch without one raises.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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
             std::pair<uint64_t, uint32_t> names, Range range, std::array<uintptr_t, 2> normalise,
             uintptr_t stream) {
    PerturbArgs args = perturb_args(tensors, sizes, names, range);
    args.channels_last = channels_last;
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

// layers: width, relu, weight (inputs, width), bias.
void dense(int64_t elements,
           const std::vector<std::tuple<int64_t, bool, uintptr_t, uintptr_t>>& layers,
           std::array<uintptr_t, 8> tensors, std::array<int64_t, 5> sizes,
           std::pair<uint64_t, uint32_t> names, uintptr_t stream) {
    if (layers.empty() || layers.size() > kDenseLayers)
        throw py::value_error("a dense network has 1 to 4 layers");
    DenseArgs args{};
    args.elements = elements;
    args.layers = static_cast<int64_t>(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        args.width[i] = std::get<0>(layers[i]);
        args.relu[i] = std::get<1>(layers[i]);
        args.weight[i] = pointer<const float>(std::get<2>(layers[i]));
        args.bias[i] = pointer<const float>(std::get<3>(layers[i]));
    }
    args.round = round_of(tensors, sizes, names, {});
    launch_dense(args, pointer<void>(stream));
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
    m.def("dense", &dense);
    m.def("convolution", &convolution);
}
