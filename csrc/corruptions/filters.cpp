// Weighted sums of shifted rows: the one inner loop of every blur and resampling here. Each sum is
// made in one fixed order, so that neither threads nor instruction sets change a bit.
#include <string.h>

#include <vector>

#include "kernels.h"

namespace robustcore {
namespace {

typedef float Lanes __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));  // in any memory
constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 32;  // of a transpose: two blocks fit the first-level cache

int64_t inside(int64_t i, int64_t n, Border border) {
    if (border == Border::kEdge) return i < 0 ? 0 : i >= n ? n - 1 : i;
    while (i < 0 || i >= n) i = i < 0 ? -i : 2 * n - 2 - i;
    return i;
}

// Memory of this thread, kept from plane to plane: made anew it would cost as much as the work.
float* scratch(int which, int64_t n) {
    thread_local std::vector<float> held[4];
    if (static_cast<int64_t>(held[which].size()) < n) held[which].resize(n);
    return held[which].data();
}

void transpose(const float* x, int64_t rows, int64_t columns, float* out) {
    for (int64_t y0 = 0; y0 < rows; y0 += kBlock)
        for (int64_t x0 = 0; x0 < columns; x0 += kBlock) {
            const int64_t y1 = y0 + kBlock < rows ? y0 + kBlock : rows;
            const int64_t x1 = x0 + kBlock < columns ? x0 + kBlock : columns;
            for (int64_t i = x0; i < x1; ++i)
                for (int64_t j = y0; j < y1; ++j) out[i * rows + j] = x[j * columns + i];
        }
}

// Blocks of `registers` from x on, as long as they fit; returns where they end.
template <int registers>
RC_FN int64_t blocks(const float* const* source, const float* weight, int64_t terms, int64_t x,
                     int64_t n, bool add, float* out) {
    for (; x + kLanes * registers <= n; x += kLanes * registers) {
        Lanes sum[registers];  // kept in registers: nothing takes its address
        Loose* const to = reinterpret_cast<Loose*>(out + x);
        for (int r = 0; r < registers; ++r) sum[r] = add ? to[r] : Lanes{};
        for (int64_t t = 0; t < terms; ++t) {
            const Loose* const from = reinterpret_cast<const Loose*>(source[t] + x);
            for (int r = 0; r < registers; ++r) sum[r] += from[r] * weight[t];
        }
        for (int r = 0; r < registers; ++r) to[r] = sum[r];
    }
    return x;
}

}  // namespace

// out[x] (+)= sum over t of weight[t] * source[t][x], x in [0, n).
RC_CLONES void weighted_rows(const float* const* source, const float* weight, int64_t terms,
                             int64_t n, bool add, float* out) {
    int64_t x = blocks<4>(source, weight, terms, 0, n, add, out);
    x = blocks<2>(source, weight, terms, x, n, add, out);
    x = blocks<1>(source, weight, terms, x, n, add, out);
    for (; x < n; ++x) {
        float sum = add ? out[x] : 0.0f;
        for (int64_t t = 0; t < terms; ++t) sum += source[t][x] * weight[t];
        out[x] = sum;
    }
}

void taps(const TapsArgs& args, int threads) {
    const int64_t plane = args.height * args.width;
    auto body = [&](int64_t p) {
        const int64_t image = p / args.channels;
        const int64_t* const dy = args.dy + image * args.taps;
        const int64_t* const dx = args.dx + image * args.taps;
        int64_t left = 0, right = 0;
        for (int64_t t = 0; t < args.taps; ++t) {
            if (-dx[t] > left) left = -dx[t];
            if (dx[t] > right) right = dx[t];
        }
        const int64_t stride = left + args.width + right;
        float* const padded = scratch(0, args.height * stride);
        for (int64_t y = 0; y < args.height; ++y)
            for (int64_t x = 0; x < stride; ++x)
                padded[y * stride + x] =
                    args.x[p * plane + y * args.width + inside(x - left, args.width, args.border)];
        std::vector<const float*> source(args.taps);
        for (int64_t y = 0; y < args.height; ++y) {
            for (int64_t t = 0; t < args.taps; ++t)
                source[t] =
                    padded + inside(y + dy[t], args.height, args.border) * stride + left + dx[t];
            weighted_rows(source.data(), args.weight + image * args.taps, args.taps, args.width,
                          false, args.out + p * plane + y * args.width);
        }
    };
    parallel(args.batch * args.channels, threads, body);
}

void separable(const SeparableArgs& args, int threads) {
    const Bands &rows = args.rows, &columns = args.columns;
    auto pass = [](const Bands& bands, int64_t term, const float* x, int64_t width, bool add,
                   const float** source, float* out) {
        for (int64_t i = 0; i < bands.rows; ++i) {
            const int64_t row = term * bands.rows + i;
            for (int64_t t = 0; t < bands.band; ++t) source[t] = x + (bands.low[row] + t) * width;
            weighted_rows(source, bands.weight + row * bands.band, bands.band, width, add,
                          out + i * width);
        }
    };
    auto body = [&](int64_t p) {
        const int64_t widest = rows.band > columns.band ? rows.band : columns.band;
        std::vector<const float*> source(widest);
        float* const tall = scratch(1, rows.rows * args.width);
        float* const wide = scratch(2, args.width * rows.rows);
        float* const sum = scratch(3, columns.rows * rows.rows);
        for (int64_t k = 0; k < args.terms; ++k) {
            pass(rows, k, args.x + p * args.height * args.width, args.width, false, source.data(),
                 tall);
            transpose(tall, rows.rows, args.width, wide);
            pass(columns, k, wide, rows.rows, k > 0, source.data(), sum);
        }
        transpose(sum, columns.rows, rows.rows, args.out + p * rows.rows * columns.rows);
    };
    parallel(args.planes, threads, body);
}

RC_CLONES void gather(const float* row, const int32_t* columns, int64_t n, float* __restrict out) {
    for (int64_t j = 0; j < n; ++j) out[j] = row[columns[j]];
}

void spread(const SpreadArgs& args, int threads) {
    auto body = [&](int64_t p) {
        const float* const from = args.x + p * args.height * args.width;
        float* to = args.out + p * args.tall * args.wide;
        for (int64_t i = 0; i < args.tall; ++i, to += args.wide) {
            if (i > 0 && args.rows[i] == args.rows[i - 1])
                memcpy(to, to - args.wide, args.wide * sizeof(float));
            else
                gather(from + args.rows[i] * args.width, args.columns, args.wide, to);
        }
    };
    parallel(args.planes, threads, body);
}

}  // namespace robustcore
