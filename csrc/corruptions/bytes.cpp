// Images as floats by channel, and as bytes by pixel, which is how files hold them.
#include "kernels.h"

namespace robustcore {
namespace {

constexpr int64_t kRun = 1024;  // pixels at a time, so that the planes' bytes stay in the cache

}  // namespace

RC_CLONES void cut(const float* x, int64_t n, float add, uint8_t* out) {
    for (int64_t i = 0; i < n; ++i) {
        const float level = x[i] * 255.0f + add;
        const int32_t whole = static_cast<int32_t>(level);
        out[i] = static_cast<uint8_t>(whole < 0 ? 0 : whole > 255 ? 255 : whole);
    }
}

RC_CLONES void weave(const uint8_t* r, const uint8_t* g, const uint8_t* b, int64_t n,
                     uint8_t* out) {
    for (int64_t i = 0; i < n; ++i) {
        out[3 * i] = r[i];
        out[3 * i + 1] = g[i];
        out[3 * i + 2] = b[i];
    }
}

RC_CLONES void unweave(const uint8_t* x, int64_t n, float* r, float* g, float* b) {
    for (int64_t i = 0; i < n; ++i) {
        r[i] = static_cast<float>(x[3 * i]) / 255.0f;
        g[i] = static_cast<float>(x[3 * i + 1]) / 255.0f;
        b[i] = static_cast<float>(x[3 * i + 2]) / 255.0f;
    }
}

void to_bytes(const float* x, int64_t batch, int64_t channels, int64_t pixels, float add,
              uint8_t* out, int threads) {
    auto body = [&](int64_t image) {
        uint8_t planes[3][kRun];
        for (int64_t first = 0; first < pixels; first += kRun) {
            const int64_t n = first + kRun < pixels ? kRun : pixels - first;
            uint8_t* const to = out + (image * pixels + first) * channels;
            for (int64_t c = 0; c < channels; ++c)
                cut(x + (image * channels + c) * pixels + first, n, add,
                    channels == 1 ? to : planes[c]);
            if (channels == 3) weave(planes[0], planes[1], planes[2], n, to);
        }
    };
    parallel(batch, threads, body);
}

void from_bytes(const uint8_t* x, int64_t batch, int64_t channels, int64_t pixels, float* out,
                int threads) {
    auto body = [&](int64_t image) {
        const uint8_t* const from = x + image * pixels * channels;
        float* const to = out + image * pixels * channels;
        if (channels == 3) {
            unweave(from, pixels, to, to + pixels, to + 2 * pixels);
        } else {
            for (int64_t p = 0; p < pixels; ++p) to[p] = static_cast<float>(from[p]) / 255.0f;
        }
    };
    parallel(batch, threads, body);
}

}  // namespace robustcore
