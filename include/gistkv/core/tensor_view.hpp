// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <type_traits>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// Where memory lives. Part of every view's type, so that a wrong space is a compile error.
template <class S>
concept MemorySpace = requires {
  { S::host_accessible } -> std::convertible_to<bool>;
};

/// Memory that host code may read and write.
struct host_space {
  static constexpr bool host_accessible = true;
};

/// Memory of an accelerator: host code may hold the address and nothing else.
struct device_space {
  static constexpr bool host_accessible = false;
};

/// Non-owning view of a strided array: static rank, 64-bit extents and strides (in elements),
/// memory space in the type. Trivially copyable, so that it can be a kernel argument. The
/// vocabulary is that of std::mdspan. A stride of 0 repeats one element or row.
///
/// `T` converts to `const T`; spaces never convert. Elements are indexed by `v(i, j)` where the
/// host may touch them; `v.data()[v.offset(i, j)]` is the form that kernels use.
template <class T, std::size_t Rank, MemorySpace Space = host_space>
class tensor_view {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using space = Space;
  using extents_type = std::array<index_t, Rank>;

  tensor_view() = default;

  /// Dense, row-major: the last dimension is contiguous.
  GISTKV_HD constexpr tensor_view(T* data, extents_type extents)
      : data_(data), extents_(extents), strides_(dense_strides(extents)) {}

  GISTKV_HD constexpr tensor_view(T* data, extents_type extents, extents_type strides)
      : data_(data), extents_(extents), strides_(strides) {}

  // A constructor, because a conversion operator to a view of const makes nvcc warn.
  template <class U>
  requires(!std::same_as<U, T> && std::same_as<const U, T>) GISTKV_HD
      constexpr tensor_view(const tensor_view<U, Rank, Space>& other)  // NOLINT: implicit
      : data_(other.data()), extents_(other.extents()), strides_(other.strides()) {}

  GISTKV_HD static constexpr std::size_t rank() { return Rank; }
  GISTKV_HD constexpr T* data() const { return data_; }
  GISTKV_HD constexpr index_t extent(std::size_t d) const { return extents_[d]; }
  GISTKV_HD constexpr index_t stride(std::size_t d) const { return strides_[d]; }
  GISTKV_HD constexpr const extents_type& extents() const { return extents_; }
  GISTKV_HD constexpr const extents_type& strides() const { return strides_; }

  /// Number of elements.
  GISTKV_HD constexpr index_t size() const {
    index_t n = 1;
    for (std::size_t d = 0; d < Rank; ++d) n *= extents_[d];
    return n;
  }
  GISTKV_HD constexpr bool empty() const { return size() == 0; }

  /// Elements between data() and element (i...).
  template <std::convertible_to<index_t>... I>
  requires(sizeof...(I) == Rank) GISTKV_HD constexpr index_t offset(I... i) const {
    const extents_type at{static_cast<index_t>(i)...};
    index_t sum = 0;
    for (std::size_t d = 0; d < Rank; ++d) sum += at[d] * strides_[d];
    return sum;
  }

  template <std::convertible_to<index_t>... I>
  requires(sizeof...(I) == Rank && Space::host_accessible) constexpr T& operator()(I... i) const {
    return data_[offset(i...)];
  }

  /// Rows [begin, begin + count) of the first dimension.
  GISTKV_HD constexpr tensor_view rows(index_t begin, index_t count) const {
    return slice(0, begin, count);
  }

  /// Indices [begin, begin + count) of dimension d.
  GISTKV_HD constexpr tensor_view slice(std::size_t d, index_t begin, index_t count) const {
    GISTKV_ASSERT(begin >= 0 && count >= 0 && begin + count <= extents_[d]);
    tensor_view part = *this;
    part.data_ += begin * strides_[d];
    part.extents_[d] = count;
    return part;
  }

  /// The view of rank - 1 at index i of the first dimension.
  GISTKV_HD constexpr tensor_view<T, Rank - 1, Space> at(index_t i) const requires(Rank > 1) {
    std::array<index_t, Rank - 1> extents{};
    std::array<index_t, Rank - 1> strides{};
    for (std::size_t d = 1; d < Rank; ++d) {
      extents[d - 1] = extents_[d];
      strides[d - 1] = strides_[d];
    }
    return {data_ + i * strides_[0], extents, strides};
  }

  /// True if elements of the last dimension lie side by side.
  GISTKV_HD constexpr bool last_contiguous() const {
    return strides_[Rank - 1] == 1 || extents_[Rank - 1] <= 1;
  }
  /// True if all elements lie side by side in row-major order.
  GISTKV_HD constexpr bool dense() const {
    const extents_type want = dense_strides(extents_);
    for (std::size_t d = 0; d < Rank; ++d) {
      if (extents_[d] > 1 && strides_[d] != want[d]) return false;
    }
    return true;
  }

 private:
  GISTKV_HD static constexpr extents_type dense_strides(const extents_type& extents) {
    extents_type strides{};
    index_t step = 1;
    for (std::size_t d = Rank; d-- > 0;) {
      strides[d] = step;
      step *= extents[d];
    }
    return strides;
  }

  T* data_ = nullptr;
  extents_type extents_{};
  extents_type strides_{};
};

template <class T, MemorySpace Space = host_space>
using vector_view = tensor_view<T, 1, Space>;
template <class T, MemorySpace Space = host_space>
using matrix_view = tensor_view<T, 2, Space>;

/// The same row n times, without memory: a matrix whose row stride is 0.
template <class T, MemorySpace Space>
GISTKV_HD constexpr matrix_view<T, Space> repeat_rows(vector_view<T, Space> row, index_t n) {
  return {row.data(), {n, row.extent(0)}, {0, row.stride(0)}};
}

}  // namespace gistkv
