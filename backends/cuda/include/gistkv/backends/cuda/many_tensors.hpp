// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <gistkv/backends/cuda/training_rows.hpp>
#include <gistkv/core/training_backend.hpp>

/// The optimiser over all tensors of a model in one launch. Tensors are cut into pieces, numbered
/// through; a block of threads takes a piece and finds its tensor by the numbers of the first
/// pieces. The list is one array of bytes, so that it travels in one copy. The same source runs on
/// a device and in the tests.

namespace gistkv::backends::cuda_detail {

/// Elements of a piece.
inline constexpr index_t tensor_piece = 4096;

/// The list as kernels read it, in their memory.
template <class T>
struct tensor_list {
  const trained_tensor<T>* tensors = nullptr;
  const index_t* first_piece = nullptr;  ///< [n_tensors]
  const adamw_step* steps = nullptr;     ///< By trained_tensor::options; null for what needs none.
  index_t n_tensors = 0;
  index_t n_pieces = 0;
};

/// What lies in memory for a tensor_list: tensors, first pieces, steps.
template <class T>
class packed_tensors {
 public:
  explicit packed_tensors(std::span<const trained_tensor<T>> tensors,
                          std::span<const adamw_options> options = {})
      : n_tensors_(tensors.size()), has_steps_(!options.empty()) {
    std::vector<index_t> first_piece;
    for (const trained_tensor<T>& t : tensors) {
      first_piece.push_back(n_pieces_);
      n_pieces_ += (t.n + tensor_piece - 1) / tensor_piece;
    }
    std::vector<adamw_step> steps;
    for (const adamw_options& o : options) steps.emplace_back(o);
    append(tensors.data(), tensors.size_bytes());
    append(first_piece.data(), first_piece.size() * sizeof(index_t));
    append(steps.data(), steps.size() * sizeof(adamw_step));
  }

  std::span<const std::byte> bytes() const { return bytes_; }
  index_t n_pieces() const { return n_pieces_; }
  /// With the bytes at `memory`, which is aligned to 8.
  tensor_list<T> at(const void* memory) const {
    const auto* start = static_cast<const std::byte*>(memory);
    const std::byte* pieces = start + n_tensors_ * sizeof(trained_tensor<T>);
    const std::byte* steps = pieces + n_tensors_ * sizeof(index_t);
    return {reinterpret_cast<const trained_tensor<T>*>(start),
            reinterpret_cast<const index_t*>(pieces),
            has_steps_ ? reinterpret_cast<const adamw_step*>(steps) : nullptr,
            static_cast<index_t>(n_tensors_), n_pieces_};
  }

 private:
  void append(const void* from, std::size_t n_bytes) {
    const auto* first = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), first, first + n_bytes);
  }

  std::size_t n_tensors_;
  bool has_steps_;
  index_t n_pieces_ = 0;
  std::vector<std::byte> bytes_;
};

/// f(tensor, element) for the elements that thread `thread` of `n_threads` has of a piece.
template <class T, class F>
GISTKV_HD void for_piece(const tensor_list<T>& list, index_t piece, int thread, int n_threads,
                         F&& f) {
  // The last tensor whose first piece is not behind this one; those before it without elements
  // have the same first piece.
  index_t low = 0, high = list.n_tensors;
  while (high - low > 1) {
    const index_t middle = (low + high) / 2;
    (list.first_piece[middle] <= piece ? low : high) = middle;
  }
  const trained_tensor<T>& t = list.tensors[low];
  const index_t begin = (piece - list.first_piece[low]) * tensor_piece;
  const index_t end = least(t.n, begin + tensor_piece);
  for (index_t i = begin + thread; i < end; i += n_threads) f(t, i);
}

/// ops::adamw_many. W has `store`.
template <class W, class T>
GISTKV_HD void update_piece(const tensor_list<T>& list, index_t piece, int thread, int n_threads) {
  for_piece(list, piece, thread, n_threads, [&](const trained_tensor<T>& t, index_t i) {
    list.steps[t.options](t.p[i], t.gradient[i], t.first[i], t.second[i]);
    if (t.narrow != nullptr) W::store(t.narrow + i, t.p[i]);
  });
}

/// ops::clear_gradients.
template <class T>
GISTKV_HD void clear_piece(const tensor_list<T>& list, index_t piece, int thread, int n_threads) {
  for_piece(list, piece, thread, n_threads,
            [](const trained_tensor<T>& t, index_t i) { t.gradient[i] = 0.0F; });
}

/// Warps that add up squares; their sums are added up by the host, in order.
inline constexpr index_t square_warps = 1024;

/// ops::squared_norm_many, the share of warp `item` of square_warps.
template <class W, class T>
GISTKV_HD void add_squares(W& w, const tensor_list<T>& list, index_t item, double* sums) {
  typename W::template registers<double, 1> sum;
  w.each([&](int lane) {
    sum(lane, 0) = 0.0;
    for (index_t piece = item; piece < list.n_pieces; piece += square_warps) {
      for_piece(list, piece, lane, 32, [&](const trained_tensor<T>& t, index_t i) {
        sum(lane, 0) += static_cast<double>(t.gradient[i]) * static_cast<double>(t.gradient[i]);
      });
    }
  });
  w.warp_sum(sum);
  w.each([&](int lane) {
    if (lane == 0) sums[item] = sum(lane, 0);
  });
}

}  // namespace gistkv::backends::cuda_detail
