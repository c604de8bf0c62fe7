// Fused networks as Python sees them. Arrays that make a network are copied into it; tensors of a
// round arrive as addresses, checked by robustcore/fused/native.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/kernels.h"
#include "network.h"
#include "round.h"

using namespace robustcore;

namespace {

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

// A row outside the batch, or a class outside the logits, is memory that is not ours.
void check(const char* name, const int64_t* value, int64_t n, int64_t lowest, int64_t end) {
    for (int64_t i = 0; i < n; ++i)
        if (value[i] < lowest || value[i] >= end)
            throw py::value_error(std::string(name) + " must lie in [" + std::to_string(lowest) +
                                  ", " + std::to_string(end) + "); got " +
                                  std::to_string(value[i]));
}

class FusedNet {
  public:
    template <class... Arrays>
    FusedNet(const std::string& isa, const Arrays&... arrays)
        : bodies_(bodies(isa)), network_(bodies_, arrays...), net_(network_.net()) {}

    // Logits of a table of slots, or errors of a grid.
    void evaluate(std::array<uintptr_t, 8> tensors, std::array<int64_t, 5> sizes,
                  std::pair<uint64_t, uint32_t> names, Range clip, int threads) const {
        if (net_.rows) throw py::value_error("this network was made for gradients");
        Round round = round_of(tensors, sizes, names, clip);
        if (round.rows) check("rows", round.rows, round.slots, 0, sizes[1]);
        int64_t next = 0;
        round.next = &next;
        over_workers(round.slots, bodies_.scratch(net_), threads,
                     [&](float* scratch) { bodies_.run(net_, round, scratch); });
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
                 bool l2, Range box, int threads) const {
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
        check("rows", ascent.rows, ascent.slots, 0, sizes[1]);
        check("labels", ascent.goal, sizes[1], 0, net_.classes);
        if (ascent.wanted) check("wanted", ascent.wanted, ascent.slots, -1, net_.classes);
        if (net_.gradient < 0) throw py::value_error("this network was made without gradients");
        return ascent;
    }

    void run(Ascent& ascent, void (*body)(const Net&, const Ascent&, float*), int threads) const {
        int64_t next = 0;
        ascent.next = &next;
        over_workers(ascent.slots, bodies_.ascent_scratch(net_), threads,
                     [&](float* scratch) { body(net_, ascent, scratch); });
    }

    // Each worker has memory of its own and takes tiles until none is left.
    template <class Body>
    void over_workers(int64_t slots, int64_t floats, int threads, Body body) const {
        const int64_t lanes = bodies_.lanes(net_), tiles = (slots + lanes - 1) / lanes;
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
    const Network network_;
    const Net& net_;
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
        .def("evaluate", &FusedNet::evaluate)
        .def("differentiate", &FusedNet::differentiate)
        .def("descend", &FusedNet::descend);
}
