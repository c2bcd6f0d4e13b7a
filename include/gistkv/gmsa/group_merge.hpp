// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/matmul.hpp>

namespace gistkv::gmsa {

/// @throws argument_error for a merge size below 1.
inline void check_merge_size(index_t merge_size) {
  if (merge_size >= 1) return;
  throw argument_error("gmsa: the merge size is " + std::to_string(merge_size) +
                       ", expected 1 or more");
}

/// Groups that n rows make: ceil(n / merge_size). @throws argument_error as check_merge_size.
inline index_t merged_rows(index_t n, index_t merge_size) {
  check_merge_size(merge_size);
  return n / merge_size + (n % merge_size != 0 ? 1 : 0);
}

/// Bytes of scratch that group_merge takes.
template <Storage B, class T>
std::size_t group_merge_workspace_size(index_t merge_size) {
  return workspace<B>::template bytes_for<T>(merge_size);
}

/// o[g, :] = mean of x[i, :], i in [g m, min((g + 1) m, n))
///
/// Group merging of GMSA (arXiv 2505.12215): the mean of each m consecutive rows; the last group is
/// averaged over its own length. Composed of one product with a row of ones for all whole groups,
/// and one for the rest.
/// @param[out] o  [merged_rows(n, m), d]; must not alias x
/// @param[in]  x  [n, d]; n = 0 does nothing
/// Asynchronous. Allocates: no. @throws argument_error for m < 1, shape_error.
template <class B, class T>
requires Computes<B, T>
void group_merge(B& be, matrix_view<T, space_of<B>> o,
                 std::type_identity_t<matrix_view<const T, space_of<B>>> x, index_t merge_size,
                 workspace<B>& scratch) {
  const index_t n = x.extent(0);
  const index_t d = x.extent(1);
  const index_t n_groups = merged_rows(n, merge_size);
  ops::expect_shape("group_merge", "o", o, {n_groups, d});
  if (n == 0) return;
  const typename workspace<B>::scope scope(scratch);
  const index_t longest = std::min(merge_size, n);
  const auto ones = scratch.template take<T>({longest});
  const std::vector<T> host(static_cast<std::size_t>(longest), static_cast<T>(1.0F));
  be.upload(ones.data(), host.data(), host.size() * sizeof(T));
  using view = tensor_view<T, 3, space_of<B>>;
  using const_view = tensor_view<const T, 3, space_of<B>>;
  const auto merge = [&](index_t first, index_t count, index_t length) {
    if (count == 0) return;
    const auto to = o.rows(first, count);
    const auto from = x.rows(first * merge_size, count * length);
    const index_t row = from.stride(0);
    ops::matmul<B, T>(be, view(to.data(), {count, 1, d}, {to.stride(0), d, 1}),
                      const_view(ones.data(), {count, 1, length}, {0, length, 1}),
                      const_view(from.data(), {count, length, d}, {length * row, row, 1}),
                      {.alpha = 1.0 / static_cast<double>(length)});
  };
  merge(0, n / merge_size, merge_size);
  merge(n / merge_size, n_groups - n / merge_size, n % merge_size);
}

}  // namespace gistkv::gmsa
