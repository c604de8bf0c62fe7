// Where drops of water catch the light: the edges of a layer of liquid (Canny, 1986), the distance
// to them (Borgefors, 1986, chamfer weights 1, 1.4, 2.1969), equalised and embossed.
#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace robustcore {
namespace {

constexpr int kLow = 50, kHigh = 150;  // thresholds of an edge
constexpr float kFar = 20.0f;          // distances are cut off here
constexpr int kTangent = 13573;        // of 22.5 degrees, times 2^15
constexpr float kSide = 1.0f, kDiagonal = 1.4f, kKnight = 2.1969f;

struct Size {
    int64_t height, width;
    int64_t pixels() const { return height * width; }
};

int64_t mirrored(int64_t i, int64_t n) { return i < 0 ? -i : i >= n ? 2 * n - 2 - i : i; }
int64_t nearest(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

// 1 at edges.
std::vector<uint8_t> edges(const uint8_t* layer, Size size) {
    const int64_t h = size.height, w = size.width, stride = w + 2;
    std::vector<int> across(size.pixels()), down(size.pixels());
    std::vector<int> steep((h + 2) * stride);  // gradient's l1 length, 0 around the image
    for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x) {
            const uint8_t* const rows[3] = {layer + nearest(y - 1, h) * w, layer + y * w,
                                            layer + nearest(y + 1, h) * w};
            const int64_t l = nearest(x - 1, w), r = nearest(x + 1, w);
            const int dx =
                rows[0][r] - rows[0][l] + 2 * (rows[1][r] - rows[1][l]) + rows[2][r] - rows[2][l];
            const int dy =
                rows[2][l] - rows[0][l] + 2 * (rows[2][x] - rows[0][x]) + rows[2][r] - rows[0][r];
            across[y * w + x] = dx;
            down[y * w + x] = dy;
            steep[(y + 1) * stride + x + 1] = abs(dx) + abs(dy);
        }

    std::vector<uint8_t> kind(size.pixels());  // 2: a ridge, 1: an edge
    std::vector<int64_t> strong;
    for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x) {
            const int64_t at = y * w + x;
            const int* const m = &steep[(y + 1) * stride + x + 1];
            if (*m <= kLow) continue;
            const int64_t ax = abs(across[at]), ay = static_cast<int64_t>(abs(down[at])) << 15;
            const int64_t flat = ax * kTangent, upright = flat + (ax << 16);
            bool ridge;
            if (ay < flat) {
                ridge = *m > m[-1] && *m >= m[1];
            } else if (ay > upright) {
                ridge = *m > m[-stride] && *m >= m[stride];
            } else {
                const int64_t side = (across[at] ^ down[at]) < 0 ? -1 : 1;
                ridge = *m > m[-stride - side] && *m > m[stride + side];
            }
            if (!ridge) continue;
            kind[at] = 2;
            if (*m > kHigh) strong.push_back(at);
        }
    for (const int64_t at : strong) kind[at] = 1;
    while (!strong.empty()) {  // weak ridges that touch an edge are edges too
        const int64_t at = strong.back(), y = at / w, x = at % w;
        strong.pop_back();
        for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, h - 1); ++v)
            for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, w - 1); ++u)
                if (kind[v * w + u] == 2) {
                    kind[v * w + u] = 1;
                    strong.push_back(v * w + u);
                }
    }
    for (uint8_t& each : kind) each = each == 1;
    return kind;
}

std::vector<float> distances(const std::vector<uint8_t>& edge, Size size) {
    struct Step {
        int64_t dy, dx;
        float length;
    };
    constexpr Step steps[8] = {{-1, -2, kKnight},  {-2, -1, kKnight},   {-2, 1, kKnight},
                               {-1, 2, kKnight},   {-1, -1, kDiagonal}, {-1, 0, kSide},
                               {-1, 1, kDiagonal}, {0, -1, kSide}};
    std::vector<float> far(size.pixels());
    for (int64_t i = 0; i < size.pixels(); ++i) far[i] = edge[i] ? 0.0f : 1e6f;
    for (const int64_t sign : {1, -1})
        for (int64_t i = 0; i < size.pixels(); ++i) {
            const int64_t at = sign > 0 ? i : size.pixels() - 1 - i;
            const int64_t y = at / size.width, x = at % size.width;
            for (const Step& step : steps) {
                const int64_t v = y + sign * step.dy, u = x + sign * step.dx;
                if (v < 0 || v >= size.height || u < 0 || u >= size.width) continue;
                far[at] = std::min(far[at], far[v * size.width + u] + step.length);
            }
        }
    return far;
}

// Sums over 3 x 3 neighbours with weights, mirrored at the border.
template <class T, class To>
std::vector<To> filtered(const std::vector<T>& x, Size size, const float (&weight)[3][3],
                         To (*finish)(float)) {
    std::vector<To> out(size.pixels());
    for (int64_t y = 0; y < size.height; ++y)
        for (int64_t u = 0; u < size.width; ++u) {
            float sum = 0;
            for (int64_t i = 0; i < 3; ++i)
                for (int64_t j = 0; j < 3; ++j)
                    sum += weight[i][j] * x[mirrored(y + i - 1, size.height) * size.width +
                                            mirrored(u + j - 1, size.width)];
            out[y * size.width + u] = finish(sum);
        }
    return out;
}

constexpr float kOnes[3][3] = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}};
constexpr float kEmboss[3][3] = {{-2, -1, 0}, {-1, 1, 1}, {0, 1, 2}};

void equalise(std::vector<uint8_t>& x) {
    int64_t count[256] = {};
    for (const uint8_t value : x) ++count[value];
    int first = 0;
    while (count[first] == 0) ++first;
    const int64_t rest = static_cast<int64_t>(x.size()) - count[first];
    if (rest == 0) return;
    const float scale = 255.0f / static_cast<float>(rest);
    uint8_t to[256] = {};
    int64_t sum = 0;
    for (int i = first + 1; i < 256; ++i) {
        sum += count[i];
        to[i] = static_cast<uint8_t>(lrintf(static_cast<float>(sum) * scale));
    }
    for (uint8_t& value : x) value = to[value];
}

}  // namespace

void wet_edges(const uint8_t* layer, int64_t batch, int64_t height, int64_t width, float* out,
               int threads) {
    const Size size{height, width};
    auto body = [&](int64_t image) {
        std::vector<float> far = distances(edges(layer + image * size.pixels(), size), size);
        for (float& each : far) each = std::min(each, kFar);
        std::vector<uint8_t> near = filtered<float, uint8_t>(
            far, size, kOnes, [](float sum) { return static_cast<uint8_t>(sum * (1.0f / 9.0f)); });
        equalise(near);
        near = filtered<uint8_t, uint8_t>(near, size, kEmboss, [](float sum) {
            return static_cast<uint8_t>(std::min(std::max(sum, 0.0f), 255.0f));
        });
        const std::vector<float> smooth = filtered<uint8_t, float>(
            near, size, kOnes, [](float sum) { return rintf(sum * (1.0f / 9.0f)); });
        std::copy(smooth.begin(), smooth.end(), out + image * size.pixels());
    };
    parallel(batch, threads, body);
}

}  // namespace robustcore
