// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <numbers>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/backends/eigen/kernels.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/host_storage.hpp>
#include <gistkv/core/host_training.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/thread_pool.hpp>

namespace gistkv::backends {

/// The reference backend: plain loops over Eigen's vector registers and a thread pool, on the host.
/// `eigen<float>` is for work where no faster backend is at hand, `eigen<double>` is an oracle.
///
/// Calls return when they are done. The bits of an output row depend on that row's inputs only, not
/// on the number of rows in the call or of threads (eigen/kernels.hpp): a batch equals its singles.
template <std::floating_point T = float>
requires(std::same_as<T, float> || std::same_as<T, double>) class eigen
    : public no_native,
      public host_storage,
      public host_training<eigen<T>, T> {
 public:
  using space = host_storage::space;
  using element = T;
  static constexpr std::string_view name = "eigen";
  template <class U>
  static constexpr bool supports = std::same_as<U, T>;
  /// The oracle keeps what it computes.
  template <class KV>
  static constexpr bool native_cache = std::same_as<T, float> &&
                                       (std::same_as<KV, bf16> || std::same_as<KV, f16> ||
                                        std::same_as<KV, q8>);

  /// n_threads counts the calling thread; 0: all that the machine has.
  explicit eigen(int n_threads = 0) : pool_(n_threads) {}

  int n_threads() const { return pool_.size(); }

  /// Calls f(i) for i < n on the threads, each of about `work` multiply-adds.
  template <class F>
  void for_rows(index_t n, index_t work, F&& f) {
    parallel(n, 1, work, [&f](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) f(i);
    });
  }

  /// A weight as T, row-major, 64-byte aligned, whatever its storage was.
  class packed_weight {
   public:
    packed_weight() = default;
    packed_weight(index_t rows, index_t cols) : rows_(rows), cols_(cols) {
      if (rows * cols > 0) {
        data_.reset(static_cast<T*>(
            ::operator new(static_cast<std::size_t>(rows * cols) * sizeof(T), alignment)));
      }
    }
    index_t rows() const { return rows_; }
    index_t cols() const { return cols_; }
    T* row(index_t r) { return data_.get() + r * cols_; }
    const T* row(index_t r) const { return data_.get() + r * cols_; }
    matrix_view<const T> view() const { return {data_.get(), {rows_, cols_}}; }

   private:
    struct release {
      void operator()(T* p) const { ::operator delete(p, alignment); }
    };
    index_t rows_ = 0;
    index_t cols_ = 0;
    std::unique_ptr<T, release> data_;
  };

  /// @throws shape_error if host holds fewer bytes than its extents need.
  packed_weight pack(const host_matrix& host) {
    packed_weight w(host.rows, host.cols);
    if (host.empty()) return w;
    parallel(w.rows(), 1, w.cols(), [&](index_t begin, index_t end) {
      std::vector<float> row(static_cast<std::size_t>(w.cols()));
      for (index_t r = begin; r < end; ++r) {
        dequantize_row(host, r, row.data());
        std::copy(row.begin(), row.end(), w.row(r));
      }
    });
    return w;
  }

  // Primitives; their formulas stand in ops/.

  void linear(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    // Threads share the rows of w, not of x, so that each weight is read by one core only.
    const index_t work = x.extent(0) * w.cols();
    parallel(w.rows(), 16, work, [&](index_t begin, index_t end) {
      T* to = o.data() + begin;
      eigen_detail::dot_products(x.data(), x.stride(0), x.extent(0), w.row(begin), w.cols(),
                                 end - begin, w.cols(),
                                 [&](index_t i, index_t j, const T* sums, index_t count) {
                                   std::copy_n(sums, count, to + i * o.stride(0) + j);
                                 });
    });
  }

  void matmul(tensor_view<T, 3> o, tensor_view<const T, 3> a, tensor_view<const T, 3> b,
              const matmul_options& options) {
    const T alpha = static_cast<T>(options.alpha);
    const index_t m = o.extent(1);
    const index_t n = o.extent(2);
    const index_t k = a.extent(2);
    // The rows of all matrices are shared out as one range; a part may begin inside a matrix.
    parallel(o.extent(0) * m, 4, n * k, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end;) {
        const index_t h = i / m;
        const index_t first = i % m;
        const index_t count = std::min(m - first, end - i);
        i += count;
        const auto to = o.at(h).rows(first, count);
        const auto left = a.at(h).rows(first, count);
        const auto right = b.at(h);
        const auto put = [&](index_t row, index_t column, const T* sums, index_t n_sums) {
          T* cells = to.data() + row * to.stride(0) + column;
          for (index_t c = 0; c < n_sums; ++c) {
            cells[c] = options.accumulate ? cells[c] + alpha * sums[c] : alpha * sums[c];
          }
        };
        if (options.transpose_b) {
          eigen_detail::dot_products(left.data(), left.stride(0), count, right.data(),
                                     right.stride(0), n, k, put);
        } else {
          eigen_detail::products(left.data(), left.stride(0), count, right.data(), right.stride(0),
                                 n, k, put);
        }
      }
    });
  }

  void norm(matrix_view<T> o, matrix_view<const T> x, vector_view<const T> weight,
            vector_view<const T> bias, const norm_options& options) {
    const index_t d = x.extent(1);
    parallel(x.extent(0), 1, 4 * d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        const T* from = x.data() + i * x.stride(0);
        T* to = o.data() + i * o.stride(0);
        const T mean = options.kind == norm_kind::layer ? sum_of(from, d, T(0)) / T(d) : T(0);
        const T variance = sum_of_squares(from, d, mean) / T(d);
        const T factor = T(1) / std::sqrt(variance + static_cast<T>(options.eps));
        for (index_t j = 0; j < d; ++j) to[j] = (from[j] - mean) * factor * weight(j);
        if (bias.empty()) continue;
        for (index_t j = 0; j < d; ++j) to[j] += bias(j);
      }
    });
  }

  void rope(tensor_view<T, 3> x, vector_view<const std::int32_t> positions,
            vector_view<const float> frequencies, const rope_options& options) {
    const index_t half = x.extent(2) / 2;
    parallel(x.extent(0), 1, half * (50 + 4 * x.extent(1)), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        for (index_t j = 0; j < half; ++j) {
          // In float the angle of position 10^6 would be wrong by a tenth of a radian.
          const double angle =
              static_cast<double>(positions(i)) * static_cast<double>(frequencies(j));
          const T cosine = static_cast<T>(options.magnitude * std::cos(angle));
          const T sine = static_cast<T>(options.magnitude * std::sin(angle));
          for (index_t h = 0; h < x.extent(1); ++h) {
            const T a = x(i, h, j);
            const T b = x(i, h, j + half);
            x(i, h, j) = a * cosine - b * sine;
            x(i, h, j + half) = b * cosine + a * sine;
          }
        }
      }
    });
  }

  void activation(matrix_view<T> o, matrix_view<const T> gate, matrix_view<const T> up,
                  activation_kind kind) {
    const index_t d = o.extent(1);
    parallel(o.extent(0), 1, 20 * d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        const T* x = gate.data() + i * gate.stride(0);
        const T* factor = up.empty() ? nullptr : up.data() + i * up.stride(0);
        T* to = o.data() + i * o.stride(0);
        switch (kind) {
          case activation_kind::silu:
            activate_row(to, x, factor, d, silu);
            break;
          case activation_kind::gelu:
            activate_row(to, x, factor, d, gelu);
            break;
          case activation_kind::gelu_tanh:
            activate_row(to, x, factor, d, gelu_tanh);
            break;
        }
      }
    });
  }

  void add(matrix_view<T> o, matrix_view<const T> a, matrix_view<const T> b) {
    parallel(o.extent(0), 1, o.extent(1), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        T* to = o.data() + i * o.stride(0);
        const T* left = a.data() + i * a.stride(0);
        const T* right = b.data() + i * b.stride(0);
        for (index_t j = 0; j < o.extent(1); ++j) to[j] = left[j] + right[j];
      }
    });
  }

  template <AttentionMask M>
  void masked_softmax(tensor_view<T, 3> s, const M& mask, const softmax_options& options,
                      matrix_view<T> lse) {
    const T scale = static_cast<T>(options.scale);
    const index_t n_q = s.extent(1);
    parallel(s.extent(0) * n_q, 1, 20 * s.extent(2), [&](index_t begin, index_t end) {
      for (index_t r = begin; r < end; ++r) {
        const index_t h = r / n_q;
        const index_t i = r % n_q;
        T* row = s.data() + s.offset(h, i, 0);
        const auto sees = [&](index_t j) { return mask(i, j); };
        const T sum = softmax_row(row, s.extent(2), sees, scale);
        if (!lse.empty()) lse(h, i) = sum;
      }
    });
  }

  template <class U>
  void gather_rows(matrix_view<U> o, matrix_view<const U> x, vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < o.extent(0); ++i) {
      std::copy_n(x.data() + rows(i) * x.stride(0), o.extent(1), o.data() + i * o.stride(0));
    }
  }

  void scatter_rows(matrix_view<T> o, matrix_view<const T> x,
                    vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) < 0) continue;
      std::copy_n(x.data() + i * x.stride(0), x.extent(1), o.data() + rows(i) * o.stride(0));
    }
  }

  // Caches of narrower elements, to which attention is composed.

  template <class KV>
  void append_rows(matrix_view<KV> o, matrix_view<const T> x,
                   vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) < 0) continue;
      encode_row(x.data() + i * x.stride(0), x.extent(1), o.data() + rows(i) * o.stride(0));
    }
  }

  template <class KV>
  void read_rows(matrix_view<T> o, matrix_view<const KV> x) {
    parallel(x.extent(0), 1, x.extent(1), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        decode_row(x.data() + i * x.stride(0), x.extent(1), o.data() + i * o.stride(0));
      }
    });
  }

 private:
  using packet = typename eigen_detail::lanes<T>::packet;

  /// f(begin, end) on parts of n items of `work` multiply-adds each, cut at multiples of grain.
  template <class F>
  void parallel(index_t n, index_t grain, index_t work, F&& f) {
    // Waking a sleeping thread takes some ten microseconds, in which one core does this much.
    constexpr double worth_waking = 200e3;
    if (static_cast<double>(n) * static_cast<double>(work) < worth_waking) return f(index_t{0}, n);
    pool_.for_ranges(n, grain, std::forward<F>(f));
  }

  static T sum_of(const T* x, index_t n, T rest) {
    packet sum = eigen_detail::lanes<T>::constant(T(0));
    eigen_detail::for_each_packet(x, n, rest,
                                  [&](const packet& v) { sum = Eigen::internal::padd(sum, v); });
    return Eigen::internal::predux(sum);
  }
  /// sum_j (x_j - mean)^2
  static T sum_of_squares(const T* x, index_t n, T mean) {
    const packet center = eigen_detail::lanes<T>::constant(mean);
    packet sum = eigen_detail::lanes<T>::constant(T(0));
    eigen_detail::for_each_packet(x, n, mean, [&](const packet& v) {
      const packet distance = Eigen::internal::psub(v, center);
      sum = Eigen::internal::pmadd(distance, distance, sum);
    });
    return Eigen::internal::predux(sum);
  }

  /// ops::masked_softmax on one row; returns its lse. What is seen moves to the front of the row,
  /// is worked on without gaps, and moves back: no scratch, and masked scores are never computed
  /// with.
  template <class Sees>
  static T softmax_row(T* row, index_t n_k, const Sees& sees, T scale) {
    using namespace Eigen::internal;
    using v = eigen_detail::lanes<T>;
    index_t n = 0;
    for (index_t j = 0; j < n_k; ++j) {
      if (sees(j)) row[n++] = row[j];
    }
    if (n == 0) {
      std::fill_n(row, n_k, T(0));
      return -std::numeric_limits<T>::infinity();
    }
    const packet factor = v::constant(scale);
    eigen_detail::map_packets(row, row, n, [&](const packet& x) { return pmul(x, factor); });
    packet largest = v::constant(row[0]);
    eigen_detail::for_each_packet(row, n, row[0],
                                  [&](const packet& x) { largest = pmax(largest, x); });
    const T top = predux_max(largest);
    const packet shift = v::constant(top);
    eigen_detail::map_packets(row, row, n, [&](const packet& x) { return pexp(psub(x, shift)); });
    const T sum = sum_of(row, n, T(0));
    const packet inverse = v::constant(T(1) / sum);
    eigen_detail::map_packets(row, row, n, [&](const packet& x) { return pmul(x, inverse); });
    for (index_t j = n_k; j-- > 0;) row[j] = sees(j) ? row[--n] : T(0);
    return top + std::log(sum);
  }

  static packet silu(const packet& x) { return eigen_detail::times_sigmoid<T>(x, x); }
  static packet gelu_tanh(const packet& x) {
    using namespace Eigen::internal;
    using v = eigen_detail::lanes<T>;
    constexpr T c = static_cast<T>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
    const packet cubic = pmul(v::constant(T(0.044715)), pmul(x, x));
    const packet z = pmul(v::constant(c), pmadd(cubic, x, x));
    return eigen_detail::times_sigmoid<T>(x, z);
  }
  static packet gelu(const packet& x) {
    alignas(64) T copy[eigen_detail::lanes<T>::size];
    Eigen::internal::pstore(copy, x);
    for (T& value : copy) {
      // 1 + erf(u) = erfc(-u), which keeps its digits where u is far below 0; there -inf is 0 too.
      const T tail = std::erfc(value * static_cast<T>(-1 / std::numbers::sqrt2));
      value = tail == T(0) ? T(0) : value * tail / 2;
    }
    return Eigen::internal::pload<packet>(copy);
  }
  template <class F>
  static void activate_row(T* o, const T* x, const T* up, index_t d, F&& f) {
    using v = eigen_detail::lanes<T>;
    index_t j = 0;
    for (; j < d; j += v::size) {
      const index_t n = std::min(v::size, d - j);
      const bool whole = n == v::size;
      packet y = f(whole ? v::load(x + j) : v::load_part(x + j, n, T(0)));
      if (up != nullptr) {
        y = Eigen::internal::pmul(y, whole ? v::load(up + j) : v::load_part(up + j, n, T(0)));
      }
      whole ? v::store(o + j, y) : v::store_part(o + j, y, n);
    }
  }

  thread_pool pool_;
};

static_assert(Backend<eigen<float>>);
static_assert(Backend<eigen<double>>);
static_assert(Trains<eigen<float>, float>);
static_assert(Trains<eigen<double>, double>);

}  // namespace gistkv::backends
