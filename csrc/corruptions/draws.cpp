// Random numbers named by (seed, stream, image id, sample, element), and what is made of them.
#include <math.h>

#include "kernels.h"

namespace robustcore {
namespace {

constexpr int64_t kPiece = 1 << 14;  // elements of one image that are one piece of work

Words<Scalar> words(const Draws& draws, int64_t image, uint64_t block, uint32_t round = 0) {
    const uint64_t id = static_cast<uint32_t>(draws.ids[image]);
    const uint64_t sample = draws.sample + (round << 8);
    return philox<Scalar>({block, sample, id, draws.stream}, draws.key);
}

// (0, 1), from all 32 bits.
double fraction(uint64_t word) { return (static_cast<uint32_t>(word) + 0.5) * 0x1p-32; }

// Inversion by sequential search, for means below 10.
float small_poisson(double mean, double u) {
    double p = exp(-mean);
    int k = 0;
    while (u > p && k < 100) {
        u -= p;
        ++k;
        p *= mean / k;
    }
    return static_cast<float>(k);
}

// Transformed rejection (Hoermann, The transformed rejection method for generating Poisson random
// variables, 1993, algorithm PTRS), for means of 10 and more.
class LargePoisson {
  public:
    explicit LargePoisson(double mean) : mean_(mean), log_mean_(log(mean)) {
        b_ = 0.931 + 2.53 * sqrt(mean);
        a_ = -0.059 + 0.02483 * b_;
        inverse_alpha_ = 1.1239 + 1.1328 / (b_ - 3.4);
        squeeze_ = 0.9277 - 3.6224 / (b_ - 2);
    }

    bool accept(double first, double second, float* count) const {
        const double u = first - 0.5;
        const double us = 0.5 - fabs(u);
        const double k = floor((2 * a_ / us + b_) * u + mean_ + 0.43);
        *count = static_cast<float>(k);
        if (us >= 0.07 && second <= squeeze_) return true;
        if (k < 0 || (us < 0.013 && second > us)) return false;
        int sign;
        return log(second * inverse_alpha_ / (a_ / (us * us) + b_)) <=
               k * log_mean_ - mean_ - lgamma_r(k + 1, &sign);
    }

  private:
    double mean_, log_mean_, a_, b_, inverse_alpha_, squeeze_;
};

}  // namespace

void uniforms(const Draws& draws, int64_t elements, float* out, int threads) {
    const int64_t pieces = (elements + kPiece - 1) / kPiece;
    auto body = [&](int64_t i) {
        const int64_t image = i / pieces, first = (i % pieces) * kPiece;
        const int64_t last = first + kPiece < elements ? first + kPiece : elements;
        float* const row = out + image * elements;
        for (int64_t e = first; e < last; e += 4) {
            const Words<Scalar> w = words(draws, image, e / 4);
            const uint64_t four[4] = {w.c0, w.c1, w.c2, w.c3};
            for (int64_t j = 0; j < 4 && e + j < last; ++j) {
                const uint32_t bits = static_cast<uint32_t>(four[j]) >> 9;
                row[e + j] = (static_cast<float>(bits) + 0.5f) * 0x1p-23f;
            }
        }
    };
    parallel(draws.batch * pieces, threads, body);
}

void poisson(const Draws& draws, int64_t elements, const float* mean, float* out, int threads) {
    const int64_t pieces = (elements + kPiece - 1) / kPiece;
    auto body = [&](int64_t i) {
        const int64_t image = i / pieces, first = (i % pieces) * kPiece;
        const int64_t last = first + kPiece < elements ? first + kPiece : elements;
        for (int64_t e = first; e < last; ++e) {
            const int64_t at = image * elements + e;
            if (mean[at] < 10.0f) {
                out[at] = small_poisson(mean[at], fraction(words(draws, image, e).c0));
                continue;
            }
            const LargePoisson law(mean[at]);
            for (uint32_t round = 0;; ++round) {
                const Words<Scalar> w = words(draws, image, e, round);
                if (law.accept(fraction(w.c0), fraction(w.c1), out + at)) break;
                if (law.accept(fraction(w.c2), fraction(w.c3), out + at)) break;
            }
        }
    };
    parallel(draws.batch * pieces, threads, body);
}

void shuffle_order(const Draws& draws, int64_t height, int64_t width, int64_t reach, int64_t passes,
                   int64_t* order, int threads) {
    const int64_t pixels = height * width;
    auto body = [&](int64_t image) {
        int64_t* const from = order + image * pixels;
        for (int64_t p = 0; p < pixels; ++p) from[p] = p;
        uint64_t site = 0;
        Words<Scalar> w{};
        for (int64_t pass = 0; pass < passes; ++pass)
            for (int64_t y = height - reach; y > reach; --y)
                for (int64_t x = width - reach; x > reach; --x, ++site) {
                    if (site % 4 == 0) w = words(draws, image, site / 4);
                    const uint64_t four[4] = {w.c0, w.c1, w.c2, w.c3};
                    const int64_t word = static_cast<uint32_t>(four[site % 4]);
                    const int64_t dx = (((word & 0xFFFF) * 2 * reach) >> 16) - reach;
                    const int64_t dy = (((word >> 16) * 2 * reach) >> 16) - reach;
                    from[y * width + x] = from[(y + dy) * width + x + dx];
                }
    };
    parallel(draws.batch, threads, body);
}

}  // namespace robustcore
