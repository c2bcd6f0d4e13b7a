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

/// What becomes of a group of rows.
enum class merging {
  mean,  ///< Their mean: GMSA.
  last   ///< The last of them, as where a model compresses into rows of its own: to compare with.
};

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

/// Bytes of scratch that group_merge and its derivative take for groups of at most so many rows.
template <Storage B, class T>
std::size_t group_merge_workspace_size(index_t merge_size) {
  return workspace<B>::template bytes_for<T>(merge_size);
}

namespace detail {

/// The weights of the rows of a group, over 1 / its length for a mean. A shorter group has the last
/// of them.
template <class T, class B>
vector_view<const T, space_of<B>> group_weights(B& be, merging how, index_t n,
                                                workspace<B>& scratch) {
  const auto row = scratch.template take<T>({n});
  std::vector<T> host(static_cast<std::size_t>(n), static_cast<T>(how == merging::mean));
  host.back() = static_cast<T>(1.0F);
  be.upload(row.data(), host.data(), host.size() * sizeof(T));
  return row;
}
inline double group_scale(merging how, index_t length) {
  return how == merging::mean ? 1.0 / static_cast<double>(length) : 1.0;
}

/// Calls part(first group, groups, rows a group) for the whole groups of n rows and for the rest.
template <class Part>
void for_whole_and_rest(index_t n, index_t merge_size, Part&& part) {
  const index_t whole = n / merge_size;
  if (whole > 0) part(index_t{0}, whole, merge_size);
  if (n % merge_size != 0) part(whole, index_t{1}, n % merge_size);
}

/// Rows [first * size, first * size + count * length) as [count, length, d].
template <class T, MemorySpace Space>
tensor_view<T, 3, Space> grouped(matrix_view<T, Space> x, index_t begin, index_t count,
                                 index_t length) {
  const index_t row = x.stride(0);
  return {x.data() + begin * row, {count, length, x.extent(1)}, {length * row, row, 1}};
}

}  // namespace detail

/// o[g, :] = mean of x[i, :], i in [g m, min((g + 1) m, n))
///
/// Group merging of GMSA (arXiv 2505.12215): the mean of each m consecutive rows; the last group is
/// averaged over its own length. Composed of one product with a row of weights for all whole
/// groups, and one for the rest; merging::last takes the last row of each group by the same
/// products.
/// @param[out] o  [merged_rows(n, m), d]; must not alias x
/// @param[in]  x  [n, d]; n = 0 does nothing
/// Asynchronous. Allocates: no. @throws argument_error for m < 1, shape_error.
template <class B, class T>
requires Computes<B, T>
void group_merge(B& be, matrix_view<T, space_of<B>> o,
                 std::type_identity_t<matrix_view<const T, space_of<B>>> x, index_t merge_size,
                 workspace<B>& scratch, merging how = merging::mean) {
  const index_t n = x.extent(0);
  ops::expect_shape("group_merge", "o", o, {merged_rows(n, merge_size), x.extent(1)});
  if (n == 0) return;
  const typename workspace<B>::scope scope(scratch);
  const auto weights = detail::group_weights<T>(be, how, std::min(merge_size, n), scratch);
  detail::for_whole_and_rest(n, merge_size, [&](index_t first, index_t count, index_t length) {
    ops::matmul<B, T>(
        be, detail::grouped(o, first, count, 1),
        {weights.data() + (weights.size() - length), {count, 1, length}, {0, length, 1}},
        detail::grouped(x, first * merge_size, count, length),
        {.alpha = detail::group_scale(how, length)});
  });
}

/// dx[i, :] = d_o[g, :] / length of group g, where row i is in group g: the derivative of
/// group_merge.
/// @param[out] dx   [n, d]; must not alias d_o
/// @param[in]  d_o  [merged_rows(n, m), d]
/// Asynchronous. Allocates: no. @throws as group_merge.
template <class B, class T>
requires Computes<B, T>
void group_merge_backward(B& be, matrix_view<T, space_of<B>> dx,
                          std::type_identity_t<matrix_view<const T, space_of<B>>> d_o,
                          index_t merge_size, workspace<B>& scratch, merging how = merging::mean) {
  const index_t n = dx.extent(0);
  ops::expect_shape("group_merge_backward", "d_o", d_o, {merged_rows(n, merge_size), dx.extent(1)});
  if (n == 0) return;
  const typename workspace<B>::scope scope(scratch);
  const auto weights = detail::group_weights<T>(be, how, std::min(merge_size, n), scratch);
  detail::for_whole_and_rest(n, merge_size, [&](index_t first, index_t count, index_t length) {
    ops::matmul<B, T>(be, detail::grouped(dx, first * merge_size, count, length),
                      {weights.data() + (weights.size() - length), {count, length, 1}, {0, 1, 1}},
                      detail::grouped(d_o, first, count, 1),
                      {.alpha = detail::group_scale(how, length)});
  });
}

}  // namespace gistkv::gmsa
