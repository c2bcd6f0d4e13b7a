// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::backends::onednn_detail {

/// Cosines and sines of the last call's positions: all layers of a pass ask for the same.
class rotation {
 public:
  template <class B>
  void update(vector_view<const std::int32_t> positions, vector_view<const float> frequencies,
              double magnitude, B& be) {
    const std::span p(positions.data(), static_cast<std::size_t>(positions.size()));
    const std::span f(frequencies.data(), static_cast<std::size_t>(frequencies.size()));
    if (magnitude == magnitude_ && std::ranges::equal(p, positions_) &&
        std::ranges::equal(f, frequencies_)) {
      return;
    }
    magnitude_ = std::numeric_limits<double>::quiet_NaN();  // Equal to none, should this throw.
    positions_.assign(p.begin(), p.end());
    frequencies_.assign(f.begin(), f.end());
    half_ = static_cast<index_t>(f.size());
    table_.resize(2 * p.size() * f.size());
    be.for_rows(static_cast<index_t>(p.size()), 100 * half_, [&](index_t i) {
      float* cosines = table_.data() + 2 * i * half_;
      for (index_t j = 0; j < half_; ++j) {
        // In float the angle of position 10^6 would be wrong by a tenth of a radian.
        const double angle = static_cast<double>(positions_[static_cast<std::size_t>(i)]) *
                             static_cast<double>(frequencies_[static_cast<std::size_t>(j)]);
        cosines[j] = static_cast<float>(magnitude * std::cos(angle));
        cosines[half_ + j] = static_cast<float>(magnitude * std::sin(angle));
      }
    });
    magnitude_ = magnitude;
  }
  const float* cosine(index_t i) const { return table_.data() + 2 * i * half_; }
  const float* sine(index_t i) const { return cosine(i) + half_; }

 private:
  std::vector<std::int32_t> positions_;
  std::vector<float> frequencies_;
  double magnitude_ = std::numeric_limits<double>::quiet_NaN();  ///< Of what the table holds.
  index_t half_ = 0;
  std::vector<float> table_;
};

}  // namespace gistkv::backends::onednn_detail
