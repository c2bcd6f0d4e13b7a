// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/lora.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv::model {

/// (alpha / rank) B A in a backend's memory, to be added to W x, on all rows or on some.
template <class B, class T>
requires Computes<B, T>
class low_rank_map {
 public:
  using space = space_of<B>;

  low_rank_map(B& be, const low_rank& source, double alpha) : down_(be.pack(source.a_matrix())) {
    std::vector<float> scaled = source.b;
    const auto scale = static_cast<float>(alpha / static_cast<double>(source.rank));
    for (float& x : scaled) x *= scale;
    host_matrix up = source.b_matrix();
    up.data = std::as_bytes(std::span<const float>(scaled));
    up_ = be.pack(up);
  }

  /// Bytes of scratch for n rows, some of those given or all.
  std::size_t workspace_size(index_t n) const {
    const auto bytes = [n](index_t width) {
      return workspace<B>::template bytes_for<T>(n * width);
    };
    return bytes(down_.cols()) + bytes(down_.rows()) + 2 * bytes(up_.rows());
  }

  /// o += (alpha / rank) B A x
  void add_to(B& be, matrix_view<T, space> o, matrix_view<const T, space> x,
              workspace<B>& scratch) const {
    const typename workspace<B>::scope scope(scratch);
    const auto narrow = scratch.template take<T>({x.extent(0), down_.rows()});
    const auto added = scratch.template take<T>({x.extent(0), up_.rows()});
    ops::linear<B, T>(be, narrow, x, down_);
    ops::linear<B, T>(be, added, narrow, up_);
    ops::add<B, T>(be, o, o, added);
  }

  /// o[rows[i], :] += (alpha / rank) B A x[rows[i], :]
  void add_to(B& be, matrix_view<T, space> o, matrix_view<const T, space> x,
              vector_view<const std::int32_t, space> rows, workspace<B>& scratch) const {
    const typename workspace<B>::scope scope(scratch);
    const index_t n = rows.extent(0);
    const auto read = scratch.template take<T>({n, down_.cols()});
    const auto narrow = scratch.template take<T>({n, down_.rows()});
    const auto added = scratch.template take<T>({n, up_.rows()});
    const auto sum = scratch.template take<T>({n, up_.rows()});
    ops::gather_rows<B, T>(be, read, x, rows);
    ops::linear<B, T>(be, narrow, read, down_);
    ops::linear<B, T>(be, added, narrow, up_);
    ops::gather_rows<B, T>(be, sum, o, rows);
    ops::add<B, T>(be, sum, sum, added);
    ops::scatter_rows<B, T>(be, o, sum, rows);
  }

 private:
  packed_weight_t<B> down_;
  packed_weight_t<B> up_;
};

}  // namespace gistkv::model
