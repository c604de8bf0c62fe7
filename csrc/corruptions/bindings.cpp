// Where Python meets the kernels of the image corruptions. Tensors arrive as addresses and sizes;
// robustcore/corruptions/native.py checks shapes and types before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "kernels.h"

namespace py = pybind11;
using namespace robustcore;

namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// ids, batch, sample, stream, seed.
using Names = std::tuple<uintptr_t, int64_t, uint32_t, uint32_t, uint64_t>;

Draws named(const Names& names) {
    const auto [ids, batch, sample, stream, seed] = names;
    return {pointer<const int64_t>(ids),
            batch,
            sample,
            stream,
            {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
}

// A row outside the source would read memory that is not ours.
void check_bands(const Bands& bands, int64_t terms, int64_t size) {
    for (int64_t i = 0; i < terms * bands.rows; ++i)
        if (bands.low[i] < 0 || bands.low[i] + bands.band > size)
            throw py::value_error("bands must lie in [0, " + std::to_string(size) + "); got " +
                                  std::to_string(bands.low[i]));
}

void check_within(const char* name, const int32_t* index, int64_t n, int64_t size) {
    for (int64_t i = 0; i < n; ++i)
        if (index[i] < 0 || index[i] >= size)
            throw py::value_error(std::string(name) + " must lie in [0, " + std::to_string(size) +
                                  "); got " + std::to_string(index[i]));
}

}  // namespace

PYBIND11_MODULE(_corruptions, m) {
    m.doc() = "The C++ kernels of the corruptions; robustcore.corruptions.native is their door.";
    m.def("uniforms", [](const Names& names, int64_t elements, uintptr_t out, int threads) {
        const py::gil_scoped_release release;
        uniforms(named(names), elements, pointer<float>(out), threads);
    });
    m.def("poisson", [](const Names& names, int64_t elements, uintptr_t mean, uintptr_t out,
                        int threads) {
        const py::gil_scoped_release release;
        poisson(named(names), elements, pointer<const float>(mean), pointer<float>(out), threads);
    });
    m.def("shuffle_order", [](const Names& names, std::array<int64_t, 2> size, int64_t reach,
                              int64_t passes, uintptr_t order, int threads) {
        const py::gil_scoped_release release;
        shuffle_order(named(names), size[0], size[1], reach, passes, pointer<int64_t>(order),
                      threads);
    });
    m.def("taps", [](uintptr_t x, std::array<int64_t, 5> sizes, uintptr_t dy, uintptr_t dx,
                     uintptr_t weight, bool mirror, uintptr_t out, int threads) {
        TapsArgs args{};
        args.x = pointer<const float>(x);
        args.batch = sizes[0];
        args.channels = sizes[1];
        args.height = sizes[2];
        args.width = sizes[3];
        args.taps = sizes[4];
        args.dy = pointer<const int64_t>(dy);
        args.dx = pointer<const int64_t>(dx);
        args.weight = pointer<const float>(weight);
        args.border = mirror ? Border::kMirror : Border::kEdge;
        args.out = pointer<float>(out);
        const py::gil_scoped_release release;
        taps(args, threads);
    });
    m.def("separable",
          [](uintptr_t x, std::array<int64_t, 8> sizes, uintptr_t row_low, uintptr_t row_weight,
             uintptr_t column_low, uintptr_t column_weight, uintptr_t out, int threads) {
              SeparableArgs args{};
              args.x = pointer<const float>(x);
              args.planes = sizes[0];
              args.height = sizes[1];
              args.width = sizes[2];
              args.terms = sizes[3];
              args.rows = {pointer<const int64_t>(row_low), pointer<const float>(row_weight),
                           sizes[4], sizes[5]};
              args.columns = {pointer<const int64_t>(column_low),
                              pointer<const float>(column_weight), sizes[6], sizes[7]};
              args.out = pointer<float>(out);
              check_bands(args.rows, args.terms, args.height);
              check_bands(args.columns, args.terms, args.width);
              const py::gil_scoped_release release;
              separable(args, threads);
          });
    m.def("spread", [](uintptr_t x, std::array<int64_t, 5> sizes, uintptr_t rows, uintptr_t columns,
                       uintptr_t out, int threads) {
        const SpreadArgs args{pointer<const float>(x),
                              sizes[0],
                              sizes[1],
                              sizes[2],
                              sizes[3],
                              sizes[4],
                              pointer<const int32_t>(rows),
                              pointer<const int32_t>(columns),
                              pointer<float>(out)};
        check_within("rows", args.rows, args.tall, args.height);
        check_within("columns", args.columns, args.wide, args.width);
        const py::gil_scoped_release release;
        spread(args, threads);
    });
    m.def("wet_edges",
          [](uintptr_t layer, std::array<int64_t, 3> sizes, uintptr_t out, int threads) {
              const py::gil_scoped_release release;
              wet_edges(pointer<const uint8_t>(layer), sizes[0], sizes[1], sizes[2],
                        pointer<float>(out), threads);
          });
    m.def("jpeg", [](uintptr_t x, std::array<int64_t, 3> sizes, int quality, float add,
                     uintptr_t out, int threads) {
        const py::gil_scoped_release release;
        jpeg(pointer<const float>(x), sizes[0], sizes[1], sizes[2], quality, add,
             pointer<float>(out), threads);
    });
}
