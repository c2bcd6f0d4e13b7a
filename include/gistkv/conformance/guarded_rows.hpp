// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <gistkv/conformance/guarded.hpp>
#include <gistkv/core/q8.hpp>

namespace gistkv::conformance {

/// `guarded` for rows of q8, whose scale is part of them: values are those of whole rows.
template <std::size_t Rank, Storage B>
class guarded_q8 {
 public:
  using space = space_of<B>;

  /// @param where  of the elements alone; rows become as wide as they are with their scale
  guarded_q8(B& be, const placement<Rank>& where, std::span<const double> values)
      : extents_(where.extents),
        d_(where.extents[Rank - 1]),
        where_(wider(where)),
        before_(static_cast<std::size_t>(where_.size), q8{0x7f}),  // Four are a scale of 3e38.
        inside_(before_.size(), 0) {
    std::vector<float> row(static_cast<std::size_t>(d_));
    std::size_t next = 0;
    for_rows([&](std::size_t at) {
      std::fill_n(inside_.begin() + static_cast<std::ptrdiff_t>(at), row_width<q8>(d_), 1);
      if (values.empty()) return;
      for (float& x : row) x = static_cast<float>(values[next++]);
      encode_row(row.data(), d_, before_.data() + at);
    });
    device_ = buffer<q8, B>(be, before_);
  }

  tensor_view<q8, Rank, space> view() {
    return {device_.data() + where_.offset, extents_, where_.strides};
  }
  tensor_view<const q8, Rank, space> cview() const {
    return {device_.data() + where_.offset, extents_, where_.strides};
  }
  std::vector<double> values() const { return decoded(device_.to_host()); }
  std::vector<double> original() const { return decoded(before_); }
  /// As of `guarded`; the scale is inside.
  std::optional<index_t> first_change(bool inside_too) const {
    const std::vector<q8> now = device_.to_host();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (inside_[i] != 0 && !inside_too) continue;
      if (!(now[i] == before_[i])) return static_cast<index_t>(i);
    }
    return std::nullopt;
  }

 private:
  static placement<Rank> wider(const placement<Rank>& where) {
    auto shape = where.extents;
    const index_t pad = where.strides[Rank - 2] - shape[Rank - 1];
    shape[Rank - 1] = row_width<q8>(shape[Rank - 1]);
    return placement<Rank>(shape, pad);
  }
  template <class F>
  void for_rows(F&& f) const {
    index_t n = 1;
    for (std::size_t d = 0; d + 1 < Rank; ++d) n *= extents_[d];
    for (index_t i = 0; i < n; ++i) {
      index_t at = where_.offset, rest = i;
      for (std::size_t d = Rank - 1; d-- > 0;) {
        at += rest % extents_[d] * where_.strides[d];
        rest /= extents_[d];
      }
      f(static_cast<std::size_t>(at));
    }
  }
  std::vector<double> decoded(const std::vector<q8>& host) const {
    std::vector<double> all, row(static_cast<std::size_t>(d_));
    for_rows([&](std::size_t at) {
      decode_row(host.data() + at, d_, row.data());
      all.insert(all.end(), row.begin(), row.end());
    });
    return all;
  }

  std::array<index_t, Rank> extents_;
  index_t d_;
  placement<Rank> where_;
  std::vector<q8> before_;
  std::vector<unsigned char> inside_;
  buffer<q8, B> device_;
};

/// Rows of a cache of T.
template <class T, std::size_t Rank, Storage B>
using guarded_rows =
    std::conditional_t<std::is_same_v<T, q8>, guarded_q8<Rank, B>, guarded<T, Rank, B>>;

}  // namespace gistkv::conformance
