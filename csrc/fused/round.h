// A round as Python hands it over: addresses, sizes and names.
#pragma once

#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "fused.h"

namespace robustcore {

using Range = std::optional<std::pair<float, float>>;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

inline Key key_of(uint64_t seed) {
    return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

// Of images, the first layer's answers to them, ids, sigma, rows, samples, labels and what is made;
// slots, images, sigmas, the first draw and how many of an image; seed and stream. With rows a
// table, whose logits are made; else a grid, whose errors are counted.
inline Round round_of(std::array<uintptr_t, 8> tensors, std::array<int64_t, 5> sizes,
                      std::pair<uint64_t, uint32_t> names, Range clip) {
    Round round{};
    round.x = pointer<const float>(tensors[0]);
    round.base = pointer<const float>(tensors[1]);
    round.ids = pointer<const int64_t>(tensors[2]);
    round.sigma = pointer<const float>(tensors[3]);
    round.rows = pointer<const int64_t>(tensors[4]);
    round.samples = pointer<const int64_t>(tensors[5]);
    round.labels = pointer<const int64_t>(tensors[6]);
    if (round.labels)
        round.counts = pointer<int64_t>(tensors[7]);
    else
        round.logits = pointer<float>(tensors[7]);
    round.slots = sizes[0];
    round.grid = sizes[2];
    round.first = sizes[3];
    round.draws = sizes[4];
    round.key = key_of(names.first);
    round.stream = names.second;
    round.has_clip = clip.has_value();
    if (clip) std::tie(round.low, round.high) = *clip;
    return round;
}

}  // namespace robustcore
