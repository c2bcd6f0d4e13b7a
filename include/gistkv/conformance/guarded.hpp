// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::conformance {

template <class T>
double to_double(T x) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<double>(x);
  } else {
    return static_cast<double>(static_cast<float>(x));
  }
}
template <class T>
T from_double(double x) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<T>(x);
  } else {
    return T(static_cast<float>(x));
  }
}

/// The values that are left of `values` once stored as T.
template <class T>
std::vector<double> rounded_to(std::vector<double> values) {
  for (double& x : values) x = to_double(from_double<T>(x));
  return values;
}

/// A NaN of rare bits: whoever reads a guard zone has NaN in the result, whoever writes one is
/// seen. Row numbers have no NaN; theirs is 0, because a large one would take the process down.
template <class T>
T sentinel() {
  if constexpr (std::same_as<T, float>) return std::bit_cast<float>(0x7fc5a5a5U);
  if constexpr (std::same_as<T, double>) return std::bit_cast<double>(0x7ff85a5a5a5a5a5aULL);
  T value{};
  if constexpr (std::same_as<T, bf16>) value.bits = 0x7fe5U;
  if constexpr (std::same_as<T, f16>) value.bits = 0x7e5aU;
  return value;
}

/// Where the elements of a tensor lie in their buffer: every dimension but the first is allocated
/// `pad` longer than the tensor, and zones of `guard` elements stand before and behind it all. An
/// odd pad makes rows strided and misaligned.
template <std::size_t Rank>
struct placement {
  static constexpr index_t guard = 64;
  std::array<index_t, Rank> extents{};
  std::array<index_t, Rank> strides{};
  index_t offset = 0;
  index_t size = 0;

  /// With `repeat`, all indices of the first dimension share one place (stride 0).
  explicit placement(const std::array<index_t, Rank>& shape, index_t pad = 0, bool repeat = false)
      : extents(shape), offset(guard + pad) {
    index_t step = 1;
    for (std::size_t d = Rank; d-- > 0;) {
      strides[d] = step;
      step *= d > 0 ? shape[d] + pad : shape[d];
    }
    if (repeat) strides[0] = 0;
    size = offset + step + guard;
  }
};

/// A tensor in a backend's memory, inside a larger buffer of sentinels, that knows what it was.
template <class T, std::size_t Rank, Storage B>
class guarded {
 public:
  using space = space_of<B>;

  /// Elements are `values` in row-major order, rounded to T; sentinels if there are none. Of a
  /// repeated tensor the first index counts.
  guarded(B& be, const placement<Rank>& where, std::span<const double> values)
      : where_(where),
        before_(static_cast<std::size_t>(where.size), sentinel<T>()),
        inside_(static_cast<std::size_t>(where.size), 0) {
    std::size_t next = 0;
    for_each([&](std::size_t at) {
      const bool first_visit = inside_[at] == 0;
      inside_[at] = 1;
      if (!values.empty() && first_visit) before_[at] = from_double<T>(values[next]);
      ++next;
    });
    device_ = buffer<T, B>(be, before_);
  }

  tensor_view<T, Rank, space> view() {
    return {device_.data() + where_.offset, where_.extents, where_.strides};
  }
  tensor_view<const T, Rank, space> cview() const {
    return {device_.data() + where_.offset, where_.extents, where_.strides};
  }

  /// The elements now, row-major.
  std::vector<double> values() const { return collect(device_.to_host()); }
  /// The elements as they were on construction, after rounding to T.
  std::vector<double> original() const { return collect(before_); }

  /// First place of the buffer, guard zones and gaps between rows included, whose bits changed;
  /// inside the tensor only if `inside_too`.
  std::optional<index_t> first_change(bool inside_too) const {
    const std::vector<T> now = device_.to_host();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (inside_[i] != 0 && !inside_too) continue;
      if (std::memcmp(&now[i], &before_[i], sizeof(T)) != 0) return static_cast<index_t>(i);
    }
    return std::nullopt;
  }

 private:
  template <class F>
  void for_each(F&& f) const {
    std::array<index_t, Rank> i{};
    index_t n = 1;
    for (index_t e : where_.extents) n *= e;
    for (; n > 0; --n) {
      index_t at = where_.offset;
      for (std::size_t d = 0; d < Rank; ++d) at += i[d] * where_.strides[d];
      f(static_cast<std::size_t>(at));
      for (std::size_t d = Rank; d-- > 0;) {
        if (++i[d] < where_.extents[d]) break;
        i[d] = 0;
      }
    }
  }
  std::vector<double> collect(const std::vector<T>& host) const {
    std::vector<double> out;
    for_each([&](std::size_t at) { out.push_back(to_double(host[at])); });
    return out;
  }

  placement<Rank> where_;
  std::vector<T> before_;
  std::vector<unsigned char> inside_;
  buffer<T, B> device_;
};

}  // namespace gistkv::conformance
