// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/clear.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv::train {

/// How far hidden states x are from a teacher's y, by direction (Sun et al. 2019, arXiv 1908.09355,
/// equation 7): sum_i |x_i / |x_i| - y_i / |y_i||^2. Rows of gists have no teacher and do not
/// count. The length of a row is left out, since whatever reads hidden states norms them first.
///
/// With u(x) the row over its root mean square, a row's term is |u(x) - u(y)|^2 / d, so that the
/// norm and its derivative are all that is needed of a backend.
template <class B, class T>
requires Trains<B, T>
class hidden_distance {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;
  using const_matrix = matrix_view<const T, space>;
  using row_list = vector_view<const std::int32_t, space>;

  /// @param d  width of hidden states
  hidden_distance(B& be, index_t d, double eps)
      : be_(&be), ones_(constant(be, d, 1.0)), negated_(constant(be, d, -1.0)), eps_(eps) {}

  /// Bytes of scratch for n rows, n_gists of them gists.
  std::size_t workspace_size(index_t n, index_t n_gists) const {
    const index_t d = ones_.size();
    return 2 * workspace<B>::template bytes_for<T>(n * d) +
           workspace<B>::template bytes_for<T>(n_gists * d) +
           workspace<B>::template bytes_for<accumulate_t<T>>(n * d) +
           workspace<B>::template bytes_for<T>(d);
  }

  /// away <- u(x) - u(y), 0 in rows of gists. Waits for the backend. @return the distance.
  /// @param[out] away  [n, d]
  /// @param[in]  x     [n, d]
  /// @param[in]  y     [n_rows, d]
  /// @param[in]  rows  [n_rows], which row of x each of y belongs to
  /// @param[in]  gists [n - n_rows], the other rows of x
  double operator()(matrix away, const_matrix x, const_matrix y, row_list rows, row_list gists,
                    workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const index_t d = ones_.size();
    ops::norm<B, T>(*be_, away, x, view(ones_), {}, how());
    const matrix taught = scratch.template take<T>({y.extent(0), d});
    ops::norm<B, T>(*be_, taught, y, view(negated_), {}, how());
    ops::scatter_add_rows<B, T>(*be_, away, taught, rows);
    if (gists.size() > 0) {
      const matrix zeros = scratch.template take<T>({gists.size(), d});
      ops::clear<B, T>(*be_, zeros);
      ops::scatter_rows<B, T>(*be_, away, zeros, gists);
    }
    return squared_norm(away, rows, scratch) / static_cast<double>(d);
  }

  /// dx += scale times the derivative of the distance with respect to x.
  /// @param[in,out] dx    [n, d]
  /// @param[in]     away  [n, d], as the call above left it
  /// @param[in]     x     [n, d], as it was then
  void backward(matrix dx, const_matrix away, const_matrix x, double scale, workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const index_t d = ones_.size();
    // The norm's weight stands in for the factor of the derivative with respect to u(x).
    const std::vector<T> factors(static_cast<std::size_t>(d),
                                 T(2.0 * scale / static_cast<double>(d)));
    const auto factor = scratch.template take<T>({d});
    be_->upload(factor.data(), factors.data(), factors.size() * sizeof(T));
    ops::norm_backward<B, T>(*be_, dx, {}, away, x, factor, how());
  }

 private:
  static buffer<T, B> constant(B& be, index_t n, double value) {
    const std::vector<T> values(static_cast<std::size_t>(n), T(value));
    return buffer<T, B>(be, std::span<const T>(values));
  }
  static vector_view<const T, space> view(const buffer<T, B>& b) { return b.view({b.size()}); }
  norm_options how() const { return {norm_kind::rms, eps_}; }

  /// Of rows in T, which the backend's squared_norm does not read: adding them up to 0 widens them.
  double squared_norm(const_matrix away, row_list rows, workspace<B>& scratch) {
    if constexpr (std::same_as<T, accumulate_t<T>>) {
      return ops::squared_norm<B, T>(*be_, {away.data(), {away.size()}});
    } else {
      const index_t d = ones_.size();
      const matrix own = scratch.template take<T>({rows.size(), d});
      ops::gather_rows<B, T>(*be_, own, away, rows);
      const auto wide = scratch.template take<accumulate_t<T>>({away.extent(0), d});
      const vector_view<accumulate_t<T>, space> flat(wide.data(), {wide.size()});
      ops::clear<B, accumulate_t<T>>(*be_, flat);
      ops::scatter_add_rows<B, T, accumulate_t<T>>(*be_, wide, own, rows);
      return ops::squared_norm<B, T>(*be_, flat);
    }
  }

  B* be_;
  buffer<T, B> ones_;
  buffer<T, B> negated_;
  double eps_;
};

}  // namespace gistkv::train
