// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The sources of the training kernels, run on the host a warp at a time, beside the plain loops of
// core/host_training.hpp in double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/training_rows.hpp>
#include <gistkv/core/host_training.hpp>

namespace gistkv {
namespace {

using namespace emulation;

struct plain_loops : host_training<plain_loops, double> {
  template <class F>
  void for_rows(index_t n, index_t, F&& f) {
    for (index_t i = 0; i < n; ++i) f(i);
  }
};

/// Numbers of T and the same as doubles.
template <class T>
struct numbers {
  std::vector<T> narrow;
  std::vector<double> wide;

  numbers(index_t n, double magnitude, std::uint64_t seed) {
    random_generator random(seed);
    for (index_t i = 0; i < n; ++i) {
      narrow.push_back(T(static_cast<float>(magnitude * random.normal())));
      wide.push_back(static_cast<double>(static_cast<float>(narrow.back())));
    }
  }
  matrix_view<double> matrix(index_t n, index_t d) { return {wide.data(), {n, d}}; }
};

template <class F>
void one_warp(F&& kernel) {
  run_block(1, 0, 1, fault::none, [&](group<32>& w) { kernel(w); });
}

/// Greatest |found - want| as a share of `relative` |want| + `absolute`.
template <class T>
double worst(const std::vector<T>& found, const std::vector<double>& want, double absolute) {
  double most = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(static_cast<float>(found[i])) - want[i]);
    const double budget = epsilon_of<T>() * std::abs(want[i]) + absolute;
    most = std::isnan(error) ? std::numeric_limits<double>::infinity()
                             : std::max(most, error / budget);
  }
  return most;
}

template <class T>
double norm_error(norm_kind kind, index_t d, float eps_error) {
  numbers<T> dx(d, 1.0, 1), dy(d, 1.0, 2), x(d, 2.0, 3), weight(d, 1.0, 4);
  std::vector<double> dw(static_cast<std::size_t>(d), 0.0);
  plain_loops().norm_backward(dx.matrix(1, d), {dw.data(), {d}}, dy.matrix(1, d), x.matrix(1, d),
                              {weight.wide.data(), {d}}, {kind, 1e-5});
  float statistics[2] = {};
  one_warp([&](group<32>& w) {
    norm_backward_row<T>(w, dx.narrow.data(), dy.narrow.data(), x.narrow.data(),
                         weight.narrow.data(), 1, d, kind == norm_kind::layer, 1e-5F + eps_error,
                         statistics);
  });
  double off = worst(dx.narrow, dx.wide, 4e-6);
  for (index_t j = 0; j < d; ++j) {  // As norm_weight_parts makes it of the statistics.
    const auto at = static_cast<std::size_t>(j);
    const double found = dy.wide[at] * (x.wide[at] - double{statistics[0]}) * double{statistics[1]};
    off = std::max(off, std::abs(found - dw[at]) / (1e-5 + 1e-5 * std::abs(dw[at])));
  }
  return off;
}

TEST_CASE_TEMPLATE("norm_backward", T, float, bf16, f16) {
  for (const norm_kind kind : {norm_kind::rms, norm_kind::layer}) {
    for (const index_t d : {1, 31, 32, 100, 576}) {
      if (d == 1 && kind == norm_kind::layer) continue;  // 0 / sqrt(eps): nothing but rounding.
      CHECK(norm_error<T>(kind, d, 0.0F) <= 1.0);
    }
    CHECK(norm_error<T>(kind, 100, 0.3F) > 2.0);
  }
}

/// Elements that begin `shift` of them behind a multiple of 16 bytes.
template <class T>
class shifted {
 public:
  shifted(const std::vector<T>& x, int shift) : memory_(x.size() + 32), n_(x.size()) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    first_ = (16 - at % 16) % 16 / sizeof(T) + static_cast<std::size_t>(shift);
    std::copy(x.begin(), x.end(), data());
  }
  T* data() { return memory_.data() + first_; }
  std::vector<T> values() { return {data(), data() + n_}; }

 private:
  std::vector<T> memory_;
  std::size_t n_, first_;
};

template <class T>
double activation_error(index_t d, bool gated, bool in_place, int shift, activation_kind kind) {
  numbers<T> dy(d, 1.0, 21), gate(d, 2.0, 22), up(d, 1.0, 23);
  std::vector<double> d_gate(static_cast<std::size_t>(d)), d_up(d_gate);
  plain_loops().activation_backward(
      {d_gate.data(), {1, d}},
      gated ? matrix_view<double>(d_up.data(), {1, d}) : matrix_view<double>(), dy.matrix(1, d),
      gate.matrix(1, d), gated ? up.matrix(1, d) : matrix_view<double>(), kind);
  shifted<T> h(dy.narrow, shift), x(gate.narrow, 0), factor(up.narrow, shift);
  shifted<T> to_gate(gate.narrow, shift), to_up(up.narrow, shift);
  T* const first = in_place ? x.data() : to_gate.data();
  T* const second = in_place ? factor.data() : to_up.data();
  one_warp([&](group<32>& w) {
    activation_backward_row<T>(w, first, gated ? second : nullptr, h.data(), x.data(),
                               gated ? factor.data() : nullptr, d, kind);
  });
  double off = worst((in_place ? x : to_gate).values(), d_gate, 4e-6);
  if (gated) off = std::max(off, worst((in_place ? factor : to_up).values(), d_up, 4e-6));
  return off;
}

TEST_CASE_TEMPLATE("activation_backward of rows", T, float, bf16, f16) {
  for (const index_t d : {1, 7, 8, 100, 1536}) {
    for (const bool gated : {false, true}) {
      for (const int shift : {0, 1}) {
        for (const bool in_place : {false, true}) {
          CHECK(activation_error<T>(d, gated, in_place, shift, activation_kind::silu) <= 1.0);
        }
      }
    }
  }
  CHECK(activation_error<T>(100, true, false, 0, activation_kind::gelu) <= 1.0);
}

TEST_CASE("activation_backward") {
  plain_loops loops;
  for (const activation_kind kind :
       {activation_kind::silu, activation_kind::gelu, activation_kind::gelu_tanh}) {
    double most = 0.0;
    for (double x = -12.0; x <= 12.0; x += 0.01) {
      double gate = static_cast<double>(static_cast<float>(x)), up = 0.7, dy = 1.3;
      double d_gate = 0.0, d_up = 0.0;
      loops.activation_backward({&d_gate, {1, 1}}, {&d_up, {1, 1}}, {&dy, {1, 1}}, {&gate, {1, 1}},
                                {&up, {1, 1}}, kind);
      const value_and_slope a = activated(static_cast<float>(x), kind);
      most = std::max({most, std::abs(d_up - 1.3 * double{a.value}),
                       std::abs(d_gate - 1.3 * 0.7 * double{a.slope})});
    }
    CHECK(most <= 4e-6);
  }
}

TEST_CASE_TEMPLATE("softmax_backward", T, float, bf16) {
  for (const index_t n : {1, 5, 32, 65, 300}) {
    numbers<T> d(n, 1.0, 5), p(n, 0.1, 6);
    const tensor_view<double, 3> wide(d.wide.data(), {1, 1, n});
    plain_loops().softmax_backward(wide, {p.wide.data(), {1, 1, n}}, 0.125);
    one_warp([&](group<32>& w) {
      softmax_backward_row<T>(w, d.narrow.data(), p.narrow.data(), n, 0.125F);
    });
    CHECK(worst(d.narrow, d.wide, 1e-6) <= 1.0);
  }
}

/// @param offset  added to all logits
/// @param shift   elements by which rows begin behind 16 bytes
template <class T>
double cross_entropy_error(index_t n, bool taught, std::int32_t target, std::int32_t wanted,
                           int n_warps, float offset = 0.0F, int shift = 0,
                           fault planted = fault::none) {
  numbers<T> x(n, 3.0, 7), teacher(n, 1.0, 8);
  for (std::size_t j = 0; j < x.narrow.size(); ++j) {
    x.narrow[j] = T(static_cast<float>(x.narrow[j]) + offset);
    x.wide[j] = static_cast<double>(static_cast<float>(x.narrow[j]));
  }
  double total = 0.0;
  for (double& q : teacher.wide) total += q = std::abs(q);
  for (std::size_t j = 0; j < teacher.wide.size(); ++j) {
    teacher.narrow[j] = T(static_cast<float>(j % 7 == 3 ? 0.0 : teacher.wide[j] / total));
    teacher.wide[j] = static_cast<double>(static_cast<float>(teacher.narrow[j]));
  }
  double loss = 0.0, weight = 0.25;
  matrix_view<const double> shown;
  if (taught) shown = teacher.matrix(1, n);
  plain_loops().cross_entropy(x.matrix(1, n), {&loss, {1}}, {&wanted, {1}}, {&weight, {1}}, shown,
                              taught ? 0.4 : 0.0);
  float found = 0.0F;
  shifted<T> logits(x.narrow, shift), shares(teacher.narrow, shift);
  run_block(n_warps, loss_shared_bytes, 3, planted, [&](group<32>& w) {
    cross_entropy_row<T>(w, n_warps, logits.data(), &found, n, target, 0.25F,
                         taught ? shares.data() : nullptr, taught ? 0.4F : 0.0F);
  });
  x.narrow = logits.values();
  return std::max(worst(x.narrow, x.wide, 2e-7),
                  std::abs(double{found} - loss) / (4e-7 * (1.0 + std::abs(loss))));
}

TEST_CASE_TEMPLATE("cross_entropy", T, float, bf16) {
  for (const index_t n : {5, 33, 128, 1000, 49156}) {
    for (const bool taught : {false, true}) {
      const auto target = static_cast<std::int32_t>(n / 3);
      for (const int n_warps : {1, n > 2000 ? loss_warps : 3}) {
        // The sums of a large vocabulary add up some of float's roundings.
        CHECK(cross_entropy_error<T>(n, taught, target, target, n_warps) <= (n > 2000 ? 8.0 : 4.0));
      }
      CHECK(cross_entropy_error<T>(n, taught, target, target, 3, 0.0F, 3) <=
            (n > 2000 ? 8.0 : 4.0));
      CHECK(cross_entropy_error<T>(n, taught, target, target + 1, 3) > 50.0);
    }
  }
  // Far from 0 the logits have fewer digits; their differences count.
  CHECK(cross_entropy_error<T>(1000, true, 7, 7, 3, 512.0F) <= 4.0);
  CHECK(cross_entropy_error<T>(1000, false, 7, 7, 8, 0.0F, 0, fault::barrier_missing) > 50.0);
}

template <class T, class O>
double scatter_error(index_t d, int forgotten) {
  constexpr index_t n = 150, m = 20;
  numbers<T> x(n * d, 1.0, 9);
  numbers<O> o(m * d, 1.0, 10);
  random_generator random(11);
  std::vector<std::int32_t> rows;
  for (index_t i = 0; i < n; ++i) {
    rows.push_back(static_cast<std::int32_t>(random.below(m + 1)) - 1);
  }
  plain_loops().scatter_add_rows(o.matrix(m, d), x.matrix(n, d), {rows.data(), {n}});
  if (forgotten >= 0) rows[static_cast<std::size_t>(forgotten)] = -1;
  one_warp([&](group<32>& w) {
    for (int i = 0; i < n; ++i) {
      for (index_t column = 0; column < d; column += scatter_columns) {
        scatter_add_piece<O, T>(w, o.narrow.data(), d, x.narrow.data(), d, rows.data(), 1,
                                static_cast<int>(n), d, i, column);
      }
    }
  });
  return worst(o.narrow, o.wide, 1e-5);
}

TEST_CASE("scatter_add_rows") {
  for (const index_t d : {1, 63, 64, 200}) {
    CHECK(scatter_error<float, float>(d, -1) <= 1.0);
    CHECK(scatter_error<bf16, float>(d, -1) <= 1.0);
    CHECK(scatter_error<bf16, bf16>(d, -1) <= 1.0);
    CHECK(scatter_error<bf16, float>(d, 149) > 10.0);
  }
}

TEST_CASE("dropout and adamw") {
  constexpr index_t n = 4000;
  numbers<float> x(n, 1.0, 12);
  std::vector<double> want(static_cast<std::size_t>(n));
  const dropout_options options{0.3, 77};
  plain_loops().dropout({want.data(), {1, n}}, x.matrix(1, n), options);
  const dropout_rule rule(options);
  std::vector<float> found;
  for (index_t i = 0; i < n; ++i) {
    found.push_back(rule(x.narrow[static_cast<std::size_t>(i)], static_cast<std::uint64_t>(i)));
  }
  CHECK(worst(found, want, 1e-7) <= 2.0);

  numbers<float> p(n, 1.0, 13), g(n, 0.01, 14), m(n, 0.01, 15), v(n, 0.01, 16);
  for (std::size_t i = 0; i < v.wide.size(); ++i) {
    v.narrow[i] *= v.narrow[i];
    v.wide[i] = static_cast<double>(v.narrow[i]);
  }
  const adamw_options o{1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3};
  plain_loops().adamw({p.wide.data(), {n}}, {g.wide.data(), {n}}, {m.wide.data(), {n}},
                      {v.wide.data(), {n}}, o);
  const adamw_step step(o);
  for (std::size_t i = 0; i < p.wide.size(); ++i) {
    step(p.narrow[i], g.narrow[i], m.narrow[i], v.narrow[i]);
  }
  CHECK(worst(p.narrow, p.wide, 1e-7) <= 2.0);
  CHECK(worst(m.narrow, m.wide, 1e-9) <= 4.0);
  CHECK(worst(v.narrow, v.wide, 1e-11) <= 4.0);
}

}  // namespace
}  // namespace gistkv
