// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <gistkv/cache/kv_segment.hpp>

namespace gistkv::cache {

/// Rows that several caches read and none writes, of a segment or of memory that somebody else
/// keeps, such as a mapped file.
template <Storage B, class T>
class kv_prefix {
 public:
  using space = space_of<B>;

  /// Takes over a segment; its first `rows` rows are the prefix.
  kv_prefix(kv_segment<B, T>&& segment, const cache_shape& shape, index_t rows) : rows_(rows) {
    auto kept = std::make_shared<const kv_segment<B, T>>(std::move(segment));
    for (index_t l = 0; l < shape.n_layers; ++l) layers_.push_back(kept->span(l, 0, rows));
    owner_ = std::move(kept);
  }

  /// @param layers  of each layer keys and values [n_kv_heads, rows, head_dim], in the layout of
  ///                kv_segment
  /// @param owner   keeps that memory while the prefix lives
  kv_prefix(std::vector<kv_span<T, space>> layers, index_t rows, std::shared_ptr<const void> owner)
      : layers_(std::move(layers)), rows_(rows), owner_(std::move(owner)) {}

  index_t rows() const { return rows_; }
  kv_span<T, space> span(index_t layer, index_t begin, index_t count) const {
    const kv_span<T, space>& all = layers_[static_cast<std::size_t>(layer)];
    return {all.k.slice(1, begin, count), all.v.slice(1, begin, count)};
  }

 private:
  std::vector<kv_span<T, space>> layers_;
  index_t rows_;
  std::shared_ptr<const void> owner_;
};

}  // namespace gistkv::cache
