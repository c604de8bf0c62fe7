// Fused networks as Python sees them. Arrays that make a network are copied into it; tensors of a
// round arrive as addresses, checked by robustcore/fused/native.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../cpu/kernels.h"
#include "fused.h"

namespace py = pybind11;
using namespace robustcore;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Offsets = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

std::vector<const FusedBodies*> runnable() {
    std::vector<const FusedBodies*> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&fused_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found.push_back(&fused_avx2);
#endif
    found.push_back(&fused_baseline);
    return found;
}

const FusedBodies& bodies(const std::string& isa) {
    static const auto known = runnable();
    for (const FusedBodies* one : known)
        if (isa.empty() || isa == one->name) return *one;
    throw py::value_error("isa must be one that this machine runs; got '" + isa + "'");
}

using Memory = std::unique_ptr<char, void (*)(void*)>;

// Whole cache lines: a register that lies across two is read twice.
Memory memory(int64_t bytes) {
    bytes = (bytes + 64) / 64 * 64;
    Memory made(static_cast<char*>(std::aligned_alloc(64, bytes)), std::free);
    if (!made) throw std::bad_alloc();
    return made;
}

// A row outside the batch would read memory that is not ours.
void check_rows(const int64_t* rows, int64_t slots, int64_t batch) {
    for (int64_t s = 0; s < slots; ++s)
        if (rows[s] < 0 || rows[s] >= batch)
            throw py::value_error("rows must lie in [0, " + std::to_string(batch) + "); got " +
                                  std::to_string(rows[s]));
}

// kind, relu, (in, out, mask, value), window, (tap, from, to, row, plane), weight (C, T), bias (C,)
using StageTuple =
    std::tuple<int, bool, std::array<int, 4>, int64_t, std::array<Offsets, 5>, Floats, Floats>;

class FusedNet {
  public:
    FusedNet(const std::string& isa, std::array<Offsets, 2> places,
             const std::vector<std::optional<Floats>>& fills, const std::vector<int64_t>& sizes,
             const std::vector<StageTuple>& stages, int64_t forward, int64_t classes,
             std::array<int, 3> ends, bool dense)
        : bodies_(bodies(isa)), sizes_(sizes) {
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

    int64_t slots_at_once() const { return bodies_.lanes(net_); }
    std::string isa() const { return bodies_.name; }

    // Slots of a table: logits (slots, classes).
    void logits(std::array<uintptr_t, 4> table, uintptr_t x, uintptr_t base, uintptr_t out,
                std::array<int64_t, 2> sizes, std::pair<uint64_t, uint32_t> names,
                std::optional<std::pair<float, float>> clip, int threads) const {
        Round round = make(x, base, names, clip);
        round.rows = pointer<const int64_t>(table[0]);
        round.sigma = pointer<const float>(table[1]);
        round.samples = pointer<const int64_t>(table[2]);
        round.ids = pointer<const int64_t>(table[3]);
        round.logits = pointer<float>(out);
        round.slots = sizes[0];
        check_rows(round.rows, round.slots, sizes[1]);
        run(round, threads);
    }

    // Draws [first, first + draws) of each image at each sigma: errors to counts (batch, grid).
    void count_errors(uintptr_t x, uintptr_t base, uintptr_t ids, uintptr_t labels, uintptr_t grid,
                      uintptr_t counts, std::array<int64_t, 4> sizes,
                      std::pair<uint64_t, uint32_t> names,
                      std::optional<std::pair<float, float>> clip, int threads) const {
        Round round = make(x, base, names, clip);
        const auto [batch, sigmas, first, draws] = sizes;
        round.ids = pointer<const int64_t>(ids);
        round.labels = pointer<const int64_t>(labels);
        round.sigma = pointer<const float>(grid);
        round.counts = pointer<int64_t>(counts);
        round.grid = sigmas;
        round.first = first;
        round.draws = draws;
        round.slots = batch * draws;
        run(round, threads);
    }

    // Points (slots, elements): margin, gain, class found and gradient of each.
    void differentiate(std::array<uintptr_t, 4> slots, std::array<uintptr_t, 4> results,
                       std::array<int64_t, 2> sizes, bool targeted, int loss, int threads) const {
        Ascent ascent = make(slots, results, sizes, targeted, loss);
        ascent.gradient = pointer<float>(results[3]);
        run(ascent, bodies_.differentiate, threads);
    }

    // Descends from points (slots, elements), which become the last of each.
    void descend(std::array<uintptr_t, 4> slots, std::array<uintptr_t, 4> results,
                 std::array<int64_t, 2> sizes, bool targeted, int loss,
                 std::array<uintptr_t, 4> ball, uintptr_t usable, int64_t steps, bool adapts,
                 bool l2, std::optional<std::pair<float, float>> box, int threads) const {
        Ascent ascent = make(slots, results, sizes, targeted, loss);
        ascent.age = pointer<int64_t>(results[3]);
        ascent.x = pointer<const float>(ball[0]);
        ascent.radius = pointer<const float>(ball[1]);
        ascent.size = pointer<const float>(ball[2]);
        ascent.order = pointer<const int64_t>(ball[3]);
        ascent.usable = pointer<bool>(usable);
        ascent.steps = steps;
        ascent.adapts = adapts;
        ascent.l2 = l2;
        ascent.has_box = box.has_value();
        if (box) std::tie(ascent.low, ascent.high) = *box;
        run(ascent, bodies_.descend, threads);
    }

  private:
    Ascent make(std::array<uintptr_t, 4> slots, std::array<uintptr_t, 4> results,
                std::array<int64_t, 2> sizes, bool targeted, int loss) const {
        Ascent ascent{};
        ascent.rows = pointer<const int64_t>(slots[0]);
        ascent.goal = pointer<const int64_t>(slots[1]);
        ascent.wanted = pointer<const int64_t>(slots[2]);
        ascent.points = pointer<float>(slots[3]);
        ascent.margin = pointer<float>(results[0]);
        ascent.gain = pointer<float>(results[1]);
        ascent.found = pointer<int64_t>(results[2]);
        ascent.slots = sizes[0];
        ascent.targeted = targeted;
        ascent.loss = static_cast<Loss>(loss);
        check_rows(ascent.rows, ascent.slots, sizes[1]);
        for (int64_t b = 0; b < sizes[1]; ++b)
            if (ascent.goal[b] < 0 || ascent.goal[b] >= net_.classes)
                throw py::value_error("labels must lie in [0, " + std::to_string(net_.classes) +
                                      "); got " + std::to_string(ascent.goal[b]));
        if (net_.gradient < 0) throw py::value_error("this network was made without gradients");
        return ascent;
    }

    void run(Ascent& ascent, void (*body)(const Net&, const Ascent&, float*), int threads) const {
        int64_t next = 0;
        ascent.next = &next;
        over_workers(ascent.slots, bodies_.ascent_scratch(net_), threads,
                     [&](float* scratch) { body(net_, ascent, scratch); });
    }

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
        s.finite = std::all_of(weight.data(), weight.data() + weight.size(),
                               [](float each) { return std::isfinite(each); });
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

    static Round make(uintptr_t x, uintptr_t base, std::pair<uint64_t, uint32_t> names,
                      std::optional<std::pair<float, float>> clip) {
        Round round{};
        round.x = pointer<const float>(x);
        round.base = pointer<const float>(base);
        round.key = {static_cast<uint32_t>(names.first), static_cast<uint32_t>(names.first >> 32)};
        round.stream = names.second;
        round.has_clip = clip.has_value();
        if (clip) std::tie(round.low, round.high) = *clip;
        return round;
    }

    void run(Round& round, int threads) const {
        if (net_.rows) throw py::value_error("this network was made for gradients");
        int64_t next = 0;
        round.next = &next;
        over_workers(round.slots, bodies_.scratch(net_), threads,
                     [&](float* scratch) { bodies_.run(net_, round, scratch); });
    }

    // Each worker has memory of its own and takes tiles until none is left.
    template <class Body>
    void over_workers(int64_t slots, int64_t floats, int threads, Body body) const {
        const int64_t tiles = (slots + slots_at_once() - 1) / slots_at_once();
        const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(tiles, threads));
        const int64_t bytes = (floats * 4 + 63) / 64 * 64;
        const Memory all = memory(workers * bytes);
        struct Work {
            Body& body;
            char* memory;
            int64_t bytes;
        } work{body, all.get(), bytes};
        const py::gil_scoped_release release;
        parallel_for(
            workers, 1, threads,
            [](void* context, int64_t first, int64_t last) {
                const Work& own = *static_cast<Work*>(context);
                for (int64_t w = first; w < last; ++w)
                    own.body(reinterpret_cast<float*>(own.memory + w * own.bytes));
            },
            &work);
    }

    const FusedBodies& bodies_;
    std::vector<int64_t> sizes_;
    std::vector<const float*> fills_;
    std::vector<Stage> stages_;
    std::vector<Memory> kept_;
    Net net_{};
};

}  // namespace

PYBIND11_MODULE(_fused, m) {
    m.doc() = "Fused networks in C++; robustcore.fused.native is their door.";
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const FusedBodies* one : runnable()) names.emplace_back(one->name);
        return names;
    });
    py::class_<FusedNet>(m, "Net")
        .def(py::init<const std::string&, std::array<Offsets, 2>,
                      const std::vector<std::optional<Floats>>&, const std::vector<int64_t>&,
                      const std::vector<StageTuple>&, int64_t, int64_t, std::array<int, 3>, bool>())
        .def_property_readonly("isa", &FusedNet::isa)
        .def_property_readonly("slots_at_once", &FusedNet::slots_at_once)
        .def("logits", &FusedNet::logits)
        .def("count_errors", &FusedNet::count_errors)
        .def("differentiate", &FusedNet::differentiate)
        .def("descend", &FusedNet::descend);
}
