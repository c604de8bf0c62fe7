// A network's arrays, copied from Python's and laid out for a set of bodies.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "fused.h"

namespace robustcore {

namespace py = pybind11;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Offsets = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

using Memory = std::unique_ptr<char, void (*)(void*)>;

// Whole cache lines: a register that lies across two is read twice.
inline Memory memory(int64_t bytes) {
    bytes = (bytes + 64) / 64 * 64;
    Memory made(static_cast<char*>(std::aligned_alloc(64, bytes)), std::free);
    if (!made) throw std::bad_alloc();
    return made;
}

// kind, relu, (in, out, mask, value), window, (tap, from, to, row, plane), weight (C, T), bias (C,)
using StageTuple =
    std::tuple<int, bool, std::array<int, 4>, int64_t, std::array<Offsets, 5>, Floats, Floats>;

class Network {
  public:
    Network(const FusedBodies& bodies, std::array<Offsets, 2> places,
            const std::vector<std::optional<Floats>>& fills, const std::vector<int64_t>& sizes,
            const std::vector<StageTuple>& stages, int64_t forward, int64_t classes,
            std::array<int, 3> ends, bool dense)
        : bodies_(bodies), sizes_(sizes) {
        if (sizes.size() > 64) throw py::value_error("a fused network has at most 64 buffers");
        net_.place = keep(places[0]);
        net_.memory = keep(places[1]);
        net_.elements = places[0].size();
        for (const auto& fill : fills) fills_.push_back(fill ? keep(*fill) : nullptr);
        net_.buffers = static_cast<int64_t>(sizes_.size());
        net_.size = sizes_.data();
        net_.fill = fills_.data();
        net_.rows = dense && ends[1] >= 0;
        for (const StageTuple& each : stages) stages_.push_back(stage(each));
        net_.forward = forward;
        net_.stages = static_cast<int64_t>(stages_.size());
        net_.stage = stages_.data();
        net_.classes = classes;
        net_.logits = ends[0];
        net_.gradient = ends[1];
        net_.slope = ends[2];
        net_.dense = dense;
    }

    const Net& net() const { return net_; }

  private:
    template <class T>
    const T* keep(const py::array_t<T, py::array::c_style | py::array::forcecast>& array) {
        Memory copy = memory(array.nbytes());
        std::copy_n(reinterpret_cast<const char*>(array.data()), array.nbytes(), copy.get());
        kept_.push_back(std::move(copy));
        return reinterpret_cast<const T*>(kept_.back().get());
    }

    Stage stage(const StageTuple& given) {
        const auto& [kind, relu, buffers, window, tables, weight, bias] = given;
        Stage s{};
        s.kind = static_cast<Stage::Kind>(kind);
        s.relu = relu;
        s.in = buffers[0];
        s.out = buffers[1];
        s.mask = buffers[2];
        s.value = buffers[3];
        s.window = window;
        s.taps = tables[0].size();
        s.positions = tables[1].size();
        s.channels = tables[3].size();
        s.tap = keep(tables[0]);
        s.from = keep(tables[1]);
        s.to = keep(tables[2]);
        s.row = keep(tables[3]);
        s.plane = keep(tables[4]);
        if (s.kind != Stage::kProduct) return s;
        // blocks of channels one after the other, each tap by tap; of rows, whole registers
        const int64_t unit = net_.rows ? bodies_.register_lanes : 1;
        const int64_t most = net_.rows ? bodies_.registers_at_once : bodies_.channels_at_once;
        const int64_t units = blocks(s.channels, unit), count = blocks(units, most);
        std::vector<float> packed, biases(units * unit);
        packed.reserve(units * unit * s.taps);
        std::copy_n(bias.data(), s.channels, biases.begin());
        for (int64_t b = 0; b < count; ++b)
            for (int64_t t = 0; t < s.taps; ++t)
                for (int64_t c = unit * block_start(units, count, b);
                     c < unit * block_start(units, count, b + 1); ++c)
                    packed.push_back(c < s.channels ? weight.data()[c * s.taps + t] : 0.0f);
        s.weight = keep(Floats(packed.size(), packed.data()));
        s.bias = keep(Floats(biases.size(), biases.data()));
        return s;
    }

    const FusedBodies& bodies_;
    std::vector<int64_t> sizes_;
    std::vector<const float*> fills_;
    std::vector<Stage> stages_;
    std::vector<Memory> kept_;
    Net net_{};
};

}  // namespace robustcore
