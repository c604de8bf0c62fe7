// What a JPEG file does to an image, without the file: bit for bit as libjpeg-turbo writes and
// reads it by default (integer transforms by Loeffler, Ligtenberg and Moschytz, colour at half the
// resolution, smoothed as it is enlarged). Entropy coding loses nothing, so that it is left out.
#include <vector>

#include "kernels.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are handed on within this file alone

namespace robustcore {
namespace {

typedef int32_t Row __attribute__((vector_size(32)));  // of a block: 8 values
typedef float Ratio __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(8), aligned(1), may_alias));  // in any memory
constexpr int kHalf = 1 << 15;  // of the 16 bits behind the point in conversions of colour
constexpr int kBits = 13;       // and of the transforms' constants

// Constants of the transforms, times 2^13.
constexpr int k0298 = 2446, k0390 = 3196, k0541 = 4433, k0765 = 6270, k0899 = 7373, k1175 = 9633,
              k1501 = 12299, k1847 = 15137, k1961 = 16069, k2053 = 16819, k2562 = 20995,
              k3072 = 25172;

constexpr uint8_t kLuma[64] = {16,  11,  10,  16,  24, 40, 51,  61,  12,  12,  14,  19,  26,
                               58,  60,  55,  14,  13, 16, 24,  40,  57,  69,  56,  14,  17,
                               22,  29,  51,  87,  80, 62, 18,  22,  37,  56,  68,  109, 103,
                               77,  24,  35,  55,  64, 81, 104, 113, 92,  49,  64,  78,  87,
                               103, 121, 120, 101, 72, 92, 95,  98,  112, 100, 103, 99};
constexpr uint8_t kColour[64] = {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
                                 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
                                 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
                                 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99};

struct Steps {
    Row of[8];
};

Steps steps(const uint8_t (&basic)[64], int quality) {
    const int scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    Steps out;
    for (int i = 0; i < 64; ++i) {
        const int step = (basic[i] * scale + 50) / 100;
        out.of[i / 8][i % 8] = step < 1 ? 1 : step > 255 ? 255 : step;
    }
    return out;
}

RC_FN Row descale(Row x, int bits) { return (x + (1 << (bits - 1))) >> bits; }

// The odd half of both transforms: four inputs to four outputs, in place.
RC_FN void odd(Row& a, Row& b, Row& c, Row& d) {
    const Row z5 = (a + c + b + d) * k1175;
    const Row z1 = (a + d) * -k0899, z2 = (b + c) * -k2562;
    const Row z3 = (a + c) * -k1961 + z5, z4 = (b + d) * -k0390 + z5;
    a = a * k0298 + z1 + z3;
    b = b * k2053 + z2 + z4;
    c = c * k3072 + z2 + z3;
    d = d * k1501 + z1 + z4;
}

// Each column to frequencies: `up` bits gained, by the first pass, or `down` bits lost.
RC_FN void forward(Row (&x)[8], int up, int down) {
    Row t0 = x[0] + x[7], t7 = x[0] - x[7], t1 = x[1] + x[6], t6 = x[1] - x[6];
    Row t2 = x[2] + x[5], t5 = x[2] - x[5], t3 = x[3] + x[4], t4 = x[3] - x[4];
    const Row e0 = t0 + t3, e3 = t0 - t3, e1 = t1 + t2, e2 = t1 - t2;
    const Row z = (e2 + e3) * k0541;
    x[0] = up ? (e0 + e1) << up : descale(e0 + e1, down);
    x[4] = up ? (e0 - e1) << up : descale(e0 - e1, down);
    const int bits = up ? kBits - up : kBits + down;
    x[2] = descale(z + e3 * k0765, bits);
    x[6] = descale(z - e2 * k1847, bits);
    odd(t4, t5, t6, t7);
    x[7] = descale(t4, bits);
    x[5] = descale(t5, bits);
    x[3] = descale(t6, bits);
    x[1] = descale(t7, bits);
}

RC_FN void backward(Row (&x)[8], int bits) {
    const Row z = (x[2] + x[6]) * k0541;
    const Row t2 = z - x[6] * k1847, t3 = z + x[2] * k0765;
    const Row t0 = (x[0] + x[4]) << kBits, t1 = (x[0] - x[4]) << kBits;
    const Row e0 = t0 + t3, e3 = t0 - t3, e1 = t1 + t2, e2 = t1 - t2;
    Row a = x[7], b = x[5], c = x[3], d = x[1];
    odd(a, b, c, d);
    x[0] = descale(e0 + d, bits);
    x[7] = descale(e0 - d, bits);
    x[1] = descale(e1 + c, bits);
    x[6] = descale(e1 - c, bits);
    x[2] = descale(e2 + b, bits);
    x[5] = descale(e2 - b, bits);
    x[3] = descale(e3 + a, bits);
    x[4] = descale(e3 - a, bits);
}

// Of blocks of `side` in x, those off the diagonal change places.
RC_FN void exchange(Row (&x)[8], int side, Row upper, Row lower) {
    for (int i = 0; i < 8; ++i)
        if ((i & side) == 0) {
            const Row a = x[i], b = x[i + side];
            x[i] = __builtin_shuffle(a, b, upper);
            x[i + side] = __builtin_shuffle(a, b, lower);
        }
}

RC_FN void transpose(Row (&x)[8]) {
    exchange(x, 1, Row{0, 8, 2, 10, 4, 12, 6, 14}, Row{1, 9, 3, 11, 5, 13, 7, 15});
    exchange(x, 2, Row{0, 1, 8, 9, 4, 5, 12, 13}, Row{2, 3, 10, 11, 6, 7, 14, 15});
    exchange(x, 4, Row{0, 1, 2, 3, 8, 9, 10, 11}, Row{4, 5, 6, 7, 12, 13, 14, 15});
}

RC_FN Row clamped(Row x) {
    x = x < 0 ? Row{} : x;
    return x > 255 ? Row{} + 255 : x;
}

// A plane, whose sides are multiples of 8.
struct Plane {
    int64_t height, width;
    std::vector<uint8_t> value;
    Plane(int64_t h, int64_t w)
        : height((h + 7) / 8 * 8), width((w + 7) / 8 * 8), value(height * width) {}
    uint8_t* row(int64_t y) { return value.data() + y * width; }
};

// The last of h rows and of w columns, over the rest.
void pad(Plane& plane, int64_t h, int64_t w) {
    for (int64_t y = 0; y < h; ++y)
        for (int64_t x = w; x < plane.width; ++x) plane.row(y)[x] = plane.row(y)[w - 1];
    for (int64_t y = h; y < plane.height; ++y)
        for (int64_t x = 0; x < plane.width; ++x) plane.row(y)[x] = plane.row(h - 1)[x];
}

}  // namespace

// Every block of 8 x 8 to whole multiples of `steps` in frequency, and back.
RC_CLONES void quantise(uint8_t* plane, int64_t height, int64_t width, const Row* steps) {
    for (int64_t top = 0; top < height; top += 8)
        for (int64_t left = 0; left < width; left += 8) {
            Row x[8];
            uint8_t* const corner = plane + top * width + left;
            for (int i = 0; i < 8; ++i) {
                const Bytes* const from = reinterpret_cast<const Bytes*>(corner + i * width);
                x[i] = __builtin_convertvector(*from, Row) - 128;
            }
            transpose(x);
            forward(x, 2, 0);
            transpose(x);
            forward(x, 0, 2);
            for (int i = 0; i < 8; ++i) {
                const Row size = x[i] < 0 ? -x[i] : x[i], step = steps[i] << 3;
                // exact: numerators are below 2^16, so no quotient rounds up to a whole number
                const Ratio ratio = __builtin_convertvector(size + (step >> 1), Ratio) /
                                    __builtin_convertvector(step, Ratio);
                const Row whole = __builtin_convertvector(ratio, Row);
                x[i] = (x[i] < 0 ? -whole : whole) * steps[i];
            }
            backward(x, kBits - 2);
            transpose(x);
            backward(x, kBits + 5);
            transpose(x);
            for (int i = 0; i < 8; ++i)
                *reinterpret_cast<Bytes*>(corner + i * width) =
                    __builtin_convertvector(clamped(x[i] + 128), Bytes);
        }
}

// Bytes of a row of floats, 255 x + add cut down.
RC_CLONES void cut(const float* __restrict x, int64_t n, float add, uint8_t* __restrict out) {
    for (int64_t i = 0; i < n; ++i) {
        const int level = static_cast<int>(x[i] * 255.0f + add);
        out[i] = static_cast<uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
    }
}

RC_CLONES void to_luma(const uint8_t* __restrict red, const uint8_t* __restrict green,
                       const uint8_t* __restrict blue, int64_t n, uint8_t* __restrict y,
                       uint8_t* __restrict cb, uint8_t* __restrict cr) {
    for (int64_t i = 0; i < n; ++i) {
        const int r = red[i], g = green[i], b = blue[i], middle = (128 << 16) + kHalf - 1;
        y[i] = static_cast<uint8_t>((19595 * r + 38470 * g + 7471 * b + kHalf) >> 16);
        cb[i] = static_cast<uint8_t>((-11059 * r - 21709 * g + 32768 * b + middle) >> 16);
        cr[i] = static_cast<uint8_t>((32768 * r - 27439 * g - 5329 * b + middle) >> 16);
    }
}

RC_FN float share(int level) {
    return static_cast<float>(level < 0 ? 0 : level > 255 ? 255 : level) / 255.0f;
}

RC_CLONES void to_rgb(const uint8_t* __restrict y, const uint8_t* __restrict cb,
                      const uint8_t* __restrict cr, int64_t n, float* __restrict red,
                      float* __restrict green, float* __restrict blue) {
    for (int64_t i = 0; i < n; ++i) {
        const int b = cb[i] - 128, r = cr[i] - 128;
        red[i] = share(y[i] + ((91881 * r + kHalf) >> 16));
        green[i] = share(y[i] + ((-22554 * b - 46802 * r + kHalf) >> 16));
        blue[i] = share(y[i] + ((116130 * b + kHalf) >> 16));
    }
}

// Means of 2 x 2 values; a half is rounded down and up in turn. n: of the result.
RC_CLONES void halve(const uint8_t* __restrict upper, const uint8_t* __restrict lower, int64_t n,
                     uint8_t* __restrict out) {
    for (int64_t i = 0; i < n; ++i) {
        const int sum = upper[2 * i] + upper[2 * i + 1] + lower[2 * i] + lower[2 * i + 1];
        out[i] = static_cast<uint8_t>((sum + 1 + (i & 1)) >> 2);
    }
}

// n values of a row to 2 n: three parts of the nearest row and column to one of the next.
RC_CLONES void twice(const uint8_t* __restrict near, const uint8_t* __restrict far, int64_t n,
                     uint8_t* __restrict out) {
    auto sum = [&](int64_t i) { return 3 * near[i] + far[i]; };
    out[0] = static_cast<uint8_t>((4 * sum(0) + 8) >> 4);
    for (int64_t i = 1; i < n; ++i) {
        out[2 * i - 1] = static_cast<uint8_t>((3 * sum(i - 1) + sum(i) + 7) >> 4);
        out[2 * i] = static_cast<uint8_t>((3 * sum(i) + sum(i - 1) + 8) >> 4);
    }
    out[2 * n - 1] = static_cast<uint8_t>((4 * sum(n - 1) + 7) >> 4);
}

void jpeg(const float* x, int64_t batch, int64_t height, int64_t width, int quality, float add,
          float* out, int threads) {
    const Steps luma_steps = steps(kLuma, quality), colour_steps = steps(kColour, quality);
    const int64_t h = (height + 1) / 2, w = (width + 1) / 2, pixels = height * width;
    auto body = [&](int64_t image) {
        Plane luma(height, width), colour[2] = {{h, w}, {h, w}};
        std::vector<uint8_t> rgb[3], line[2][2];  // line: of blue and of red, two rows
        for (auto& each : rgb) each.resize(width);
        for (auto& pair : line)
            for (auto& each : pair) each.resize(2 * colour[0].width);
        for (int64_t y = 0; y < 2 * h; ++y) {
            const int lower = y % 2;
            if (y < height) {
                for (int c = 0; c < 3; ++c)
                    cut(x + (3 * image + c) * pixels + y * width, width, add, rgb[c].data());
                to_luma(rgb[0].data(), rgb[1].data(), rgb[2].data(), width, luma.row(y),
                        line[0][lower].data(), line[1][lower].data());
                for (auto& pair : line)
                    for (int64_t i = width; i < 2 * colour[0].width; ++i)
                        pair[lower][i] = pair[lower][width - 1];
            } else {
                for (auto& pair : line) pair[1] = pair[0];
            }
            if (lower)
                for (int c = 0; c < 2; ++c)
                    halve(line[c][0].data(), line[c][1].data(), colour[c].width,
                          colour[c].row(y / 2));
        }
        pad(luma, height, width);
        quantise(luma.row(0), luma.height, luma.width, luma_steps.of);
        for (Plane& each : colour) {
            pad(each, h, each.width);
            quantise(each.row(0), each.height, each.width, colour_steps.of);
        }
        for (int64_t y = 0; y < height; ++y) {
            const int64_t near = y / 2, beside = y % 2 ? near + 1 : near - 1;
            const int64_t far = beside < 0 ? 0 : beside < h ? beside : h - 1;
            for (int c = 0; c < 2; ++c)
                twice(colour[c].row(near), colour[c].row(far), w, line[c][0].data());
            float* const to = out + 3 * image * pixels + y * width;
            to_rgb(luma.row(y), line[0][0].data(), line[1][0].data(), width, to, to + pixels,
                   to + 2 * pixels);
        }
    };
    parallel(batch, threads, body);
}

}  // namespace robustcore
