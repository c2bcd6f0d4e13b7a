// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/ops/kv_spans.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv::cache {

/// Extents that all layers of a cache share.
struct cache_shape {
  index_t n_layers = 0;
  index_t n_kv_heads = 0;
  index_t head_dim = 0;

  friend bool operator==(const cache_shape&, const cache_shape&) = default;
};

/// The shape itself. @throws shape_error unless there is at least one of everything.
inline const cache_shape& validate(const cache_shape& s) {
  if (s.n_layers > 0 && s.n_kv_heads > 0 && s.head_dim > 0) return s;
  throw shape_error("cache: " + std::to_string(s.n_layers) + " layers of " +
                    std::to_string(s.n_kv_heads) + " KV heads of " + std::to_string(s.head_dim) +
                    ", want 1 or more of each");
}

/// Storage of key and value rows for all layers: per layer two blocks [n_kv_heads, capacity,
/// head_dim], so that the rows of a head are contiguous for the kernels that stream them. Rows of
/// q8 carry their scale behind the elements.
template <Storage B, class T>
class kv_segment {
 public:
  using space = space_of<B>;
  using view = tensor_view<T, 3, space>;

  kv_segment(B& be, cache_shape shape, index_t capacity)
      : be_(&be), shape_(shape), width_(row_width<T>(shape.head_dim)) {
    for (index_t l = 0; l < shape.n_layers; ++l) {
      keys_.emplace_back(be, block_size(capacity));
      values_.emplace_back(be, block_size(capacity));
    }
  }

  /// Rows that every block has room for.
  index_t capacity() const {
    index_t least = std::numeric_limits<index_t>::max();
    for_blocks([&](const buffer<T, B>& b) { least = std::min(least, rows_of(b)); });
    return least;
  }
  std::size_t bytes() const {
    index_t n = 0;
    for_blocks([&](const buffer<T, B>& b) { n += b.size(); });
    return sizeof(T) * static_cast<std::size_t>(n);
  }

  /// Rows [begin, begin + count) of a layer, to write.
  view keys(index_t layer, index_t begin, index_t count) {
    return elements(block(keys_[static_cast<std::size_t>(layer)], begin, count));
  }
  view values(index_t layer, index_t begin, index_t count) {
    return elements(block(values_[static_cast<std::size_t>(layer)], begin, count));
  }
  /// The same, to read.
  kv_span<T, space> span(index_t layer, index_t begin, index_t count) const {
    const auto l = static_cast<std::size_t>(layer);
    return {elements(block(keys_[l], begin, count)), elements(block(values_[l], begin, count))};
  }

  /// Moves rows [begin, begin + count) of every layer to the front of blocks of another capacity.
  /// One block at a time, so that no more than one exists twice. Where memory runs out in between,
  /// the other blocks stay as large as they are; the rows are at the front of all of them.
  void resize(index_t capacity, index_t begin, index_t count) {
    std::size_t n_done = 0;
    try {
      for_blocks([&](buffer<T, B>& b) {
        buffer<T, B> other(*be_, block_size(capacity));
        for (index_t h = 0; h < shape_.n_kv_heads && count > 0; ++h) {
          copy_rows(other.data() + h * capacity * width_,
                    b.data() + (h * rows_of(b) + begin) * width_, count);
        }
        b = std::move(other);
        ++n_done;
      });
    } catch (...) {
      for_blocks([&](buffer<T, B>& b) {
        if (n_done > 0) {
          --n_done;
        } else {
          move_to_front(b, begin, count);
        }
      });
      throw;
    }
  }

  /// Moves rows [begin, begin + count) to the front in place, in pieces that do not overlap.
  void move_to_front(index_t begin, index_t count) {
    for_blocks([&](buffer<T, B>& b) { move_to_front(b, begin, count); });
  }

  /// A new segment with the listed rows, in the order of the list.
  kv_segment gathered(std::span<const std::int32_t> rows, index_t capacity) const {
    const std::vector<std::int32_t> list(rows.begin(), rows.end());
    return gathered(std::span(&list, 1), capacity);
  }

  /// The same where each head has a list of its own: [n_layers * n_kv_heads] lists of equal length,
  /// or one for all of them.
  kv_segment gathered(std::span<const std::vector<std::int32_t>> lists, index_t capacity) const {
    kv_segment result(*be_, shape_, capacity);
    const auto n = static_cast<index_t>(lists.front().size());
    if (n == 0) return result;
    std::vector<std::int32_t> all;
    for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
    const buffer<std::int32_t, B> index(*be_, std::span<const std::int32_t>(all));
    const auto table = index.view({static_cast<index_t>(lists.size()), n});
    for (std::size_t l = 0; l < keys_.size(); ++l) {
      const view keys_to = result.block(result.keys_[l], 0, n);
      const view values_to = result.block(result.values_[l], 0, n);
      for (index_t h = 0; h < shape_.n_kv_heads; ++h) {
        const index_t of_layer = static_cast<index_t>(l) * shape_.n_kv_heads;
        const auto list = table.at(lists.size() == 1 ? 0 : of_layer + h);
        ops::gather_rows<B, T>(*be_, keys_to.at(h), block(keys_[l], 0, rows_of(keys_[l])).at(h),
                               list);
        ops::gather_rows<B, T>(*be_, values_to.at(h),
                               block(values_[l], 0, rows_of(values_[l])).at(h), list);
      }
    }
    return result;
  }

  /// Copies rows [from, from + count) of another segment or prefix to rows [to, ...) of this one.
  template <class Rows>
  void copy_from(const Rows& other, index_t from, index_t to, index_t count) {
    if (count == 0) return;
    for (index_t l = 0; l < shape_.n_layers; ++l) {
      const kv_span<T, space> source = other.span(l, from, count);
      const view keys_to = keys(l, to, count);
      const view values_to = values(l, to, count);
      for (index_t h = 0; h < shape_.n_kv_heads; ++h) {
        copy_rows(keys_to.at(h).data(), source.k.at(h).data(), count);
        copy_rows(values_to.at(h).data(), source.v.at(h).data(), count);
      }
    }
  }

 private:
  index_t block_size(index_t capacity) const { return shape_.n_kv_heads * capacity * width_; }
  index_t rows_of(const buffer<T, B>& b) const { return b.size() / block_size(1); }
  template <class F>
  void for_blocks(F&& f) {
    for (auto* blocks : {&keys_, &values_}) {
      for (buffer<T, B>& b : *blocks) f(b);
    }
  }
  template <class F>
  void for_blocks(F&& f) const {
    for (const auto* blocks : {&keys_, &values_}) {
      for (const buffer<T, B>& b : *blocks) f(b);
    }
  }
  void move_to_front(buffer<T, B>& b, index_t begin, index_t count) {
    if (begin == 0) return;
    for (index_t h = 0; h < shape_.n_kv_heads; ++h) {
      T* front = b.data() + h * rows_of(b) * width_;
      for (index_t done = 0; done < count; done += begin) {
        copy_rows(front + done * width_, front + (begin + done) * width_,
                  std::min(begin, count - done));
      }
    }
  }
  void copy_rows(T* to, const T* from, index_t count) {
    be_->copy(to, from, sizeof(T) * static_cast<std::size_t>(count * width_));
  }
  /// Whole rows, with what stands behind their elements.
  template <class Buffer>
  auto block(Buffer& b, index_t begin, index_t count) const {
    return b.view({shape_.n_kv_heads, rows_of(b), width_}).slice(1, begin, count);
  }
  template <class View>
  View elements(View whole_rows) const {
    return whole_rows.slice(2, 0, shape_.head_dim);
  }

  B* be_;
  cache_shape shape_;
  index_t width_;  ///< Of a row, in elements.
  std::vector<buffer<T, B>> keys_;
  std::vector<buffer<T, B>> values_;
};

}  // namespace gistkv::cache
