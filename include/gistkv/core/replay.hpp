// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include <gistkv/core/backend.hpp>

namespace gistkv {

/// What a row of calls was told by the host: addresses, strides, extents that count. Equal keys
/// mean that the calls may be made again as they were, on what then lies in the backend's memory.
class replay_key {
 public:
  template <class T>
  void add(T* p) {
    words_.push_back(std::bit_cast<std::uintptr_t>(p));
  }
  void add(index_t n) { words_.push_back(static_cast<std::uintptr_t>(n)); }
  /// Address and strides. Extents are not of it: the rows of a cache grow while it stays in place.
  template <class T, std::size_t Rank, class Space>
  void add(const tensor_view<T, Rank, Space>& x) {
    add(x.data());
    for (std::size_t d = 0; d < Rank; ++d) add(x.stride(d));
  }
  friend auto operator<=>(const replay_key&, const replay_key&) = default;

 private:
  std::vector<std::uintptr_t> words_;
};

namespace detail {
struct no_recordings {};
template <class B>
struct recordings {
  using type = no_recordings;
};
template <class B>
requires B::native_replay struct recordings<B> {
  using type = typename B::recordings;
};
}  // namespace detail

/// What a backend keeps of calls that it can make again; belongs to who makes them.
template <class B>
using recordings_t = typename detail::recordings<B>::type;

}  // namespace gistkv
