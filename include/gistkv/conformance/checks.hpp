// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/conformance/cases.hpp>
#include <gistkv/conformance/guarded.hpp>
#include <gistkv/conformance/inputs.hpp>
#include <gistkv/conformance/oracle.hpp>
#include <gistkv/conformance/report.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/norm.hpp>

/// A trial sets one case up on a backend: calling it runs the operation (a benchmark does that many
/// times), `verify` compares what one run left behind with the oracle. Inputs and outputs are
/// reached through upload and download alone, so the memory may be anywhere.

namespace gistkv::conformance {

template <class B, class T, class Case>
class trial;

namespace detail {

/// Compares with the tolerance of r.op and keeps the worst comparison. Expected values that are all
/// 0 would pass on a backend that does nothing: they fail, unless the case is about zeros.
template <class B, class T>
void expect_values(result& r, std::string_view what, const std::vector<double>& found,
                   const expected& want, bool about_zeros = false) {
  if (!found.empty() && want.all_zero() && !about_zeros) {
    r.fail("all expected values of " + std::string(what) + " are 0: the case tests nothing");
  }
  const comparison c =
      compare(found, want, unit_budget<T, factor_t<B, T>>(r.op), smallest_normal<T>());
  if (c.ratio >= r.worst.ratio) r.worst = c;
  if (c.passed) return;
  r.fail(std::string(what) + " element " + std::to_string(c.index) + " is " +
         scientific(found[c.index], 9) + ", expected " + scientific(want.value[c.index], 9) +
         ": error " + scientific(c.error) + ", budget " + scientific(c.budget));
}

/// An input must keep all its bits, an output those around it.
template <class Guarded>
void expect_unchanged(result& r, std::string_view input, const Guarded& tensor) {
  if (const auto at = tensor.first_change(true)) {
    r.fail("changes its input " + std::string(input) + " at place " + std::to_string(*at));
  }
}
template <class T, class B>
void expect_unchanged(result& r, std::string_view input, const buffer<T, B>& now,
                      const std::vector<T>& before) {
  if (now.to_host() != before) r.fail("changes its input " + std::string(input));
}
template <class Guarded>
void expect_guards(result& r, std::string_view output, const Guarded& tensor) {
  if (const auto at = tensor.first_change(false)) {
    r.fail("writes outside " + std::string(output) + " at place " + std::to_string(*at) +
           " of its buffer");
  }
}

}  // namespace detail

template <class B, class T>
class trial<B, T, linear_case> {
 public:
  trial(B& be, const linear_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        weight_(random_, c.weight, c.d_out, c.d_in),
        packed_(be.pack(weight_.matrix)),
        x_(be, placement<2>({c.n, c.d_in}, c.pad), normals(random_, c.n * c.d_in)),
        bias_(be, placement<1>({c.bias ? c.d_out : 0}), normals(random_, c.bias ? c.d_out : 0)),
        o_(be, placement<2>({c.n, c.d_out}, c.pad), {}) {}

  void operator()() {
    if (c_.bias) {
      ops::linear(be_, o_.view(), x_.cview(), packed_, bias_.cview());
    } else {
      ops::linear(be_, o_.view(), x_.cview(), packed_);
    }
  }
  void verify(result& r) const {
    const auto bias = bias_.original();
    detail::expect_guards(r, "o", o_);
    detail::expect_unchanged(r, "x", x_);
    detail::expect_unchanged(r, "bias", bias_);
    detail::expect_values<B, T>(r, "o", o_.values(),
                                oracle::linear(c_, x_.original(), weight_.values, bias));
  }

 private:
  B& be_;
  linear_case c_;
  random_generator random_;
  random_weight weight_;
  packed_weight_t<B> packed_;
  guarded<T, 2, B> x_;
  guarded<T, 1, B> bias_;
  guarded<T, 2, B> o_;
};

template <class B, class T>
class trial<B, T, matmul_case> {
 public:
  trial(B& be, const matmul_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        a_(be, placement<3>({c.batch, c.m, c.k}, c.pad), normals(random_, c.batch * c.m * c.k)),
        b_(be,
           placement<3>(c.options.transpose_b ? std::array{c.batch, c.n, c.k}
                                              : std::array{c.batch, c.k, c.n},
                        c.pad, c.share_b),
           normals(random_, c.batch * c.n * c.k)),
        o_(be, placement<3>({c.batch, c.m, c.n}, c.pad),
           c.options.accumulate ? normals(random_, c.batch * c.m * c.n) : std::vector<double>()) {}

  void operator()() { ops::matmul(be_, o_.view(), a_.cview(), b_.cview(), c_.options); }
  void verify(result& r) const {
    detail::expect_guards(r, "o", o_);
    detail::expect_unchanged(r, "a", a_);
    detail::expect_unchanged(r, "b", b_);
    detail::expect_values<B, T>(r, "o", o_.values(),
                                oracle::matmul(c_, a_.original(), b_.original(), o_.original()),
                                c_.k == 0);
  }

 private:
  B& be_;
  matmul_case c_;
  random_generator random_;
  guarded<T, 3, B> a_;
  guarded<T, 3, B> b_;
  guarded<T, 3, B> o_;
};

template <class B, class T>
class trial<B, T, norm_case> {
 public:
  trial(B& be, const norm_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        x_(be, placement<2>({c.n, c.d}, c.pad), rows(random_, c)),
        weight_(be, placement<1>({c.d}), normals(random_, c.d)),
        bias_(be, placement<1>({c.bias ? c.d : 0}), normals(random_, c.bias ? c.d : 0)),
        o_(be, placement<2>({c.n, c.d}, c.pad), {}) {}

  void operator()() {
    const auto bias = c_.bias ? bias_.cview() : vector_view<const T, space_of<B>>{};
    ops::norm(be_, output().view(), x_.cview(), weight_.cview(), bias,
              {.kind = c_.kind, .eps = eps});
  }
  void verify(result& r) const {
    const auto bias = bias_.original();
    detail::expect_guards(r, "o", c_.in_place ? x_ : o_);
    if (!c_.in_place) detail::expect_unchanged(r, "x", x_);
    detail::expect_unchanged(r, "weight", weight_);
    detail::expect_unchanged(r, "bias", bias_);
    detail::expect_values<B, T>(
        r, "o", (c_.in_place ? x_ : o_).values(),
        oracle::norm(c_, eps, x_.original(), weight_.original(), bias),
        c_.rows == norm_rows::zero || (c_.kind == norm_kind::layer && c_.d == 1));
  }

 private:
  static constexpr double eps = 1e-5;
  static std::vector<double> rows(random_generator& random, const norm_case& c) {
    const double magnitudes[] = {1.0, 1.0, 1e-3, 0.0};  // In the order of norm_rows.
    auto x = normals(random, c.n * c.d, magnitudes[static_cast<int>(c.rows)]);
    if (c.rows == norm_rows::offset) {
      for (double& value : x) value += 4.0;
    }
    return x;
  }
  guarded<T, 2, B>& output() { return c_.in_place ? x_ : o_; }

  B& be_;
  norm_case c_;
  random_generator random_;
  guarded<T, 2, B> x_;
  guarded<T, 1, B> weight_;
  guarded<T, 1, B> bias_;
  guarded<T, 2, B> o_;
};

template <class B, class T>
class trial<B, T, activation_case> {
 public:
  trial(B& be, const activation_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        gate_(be, placement<2>({c.n, c.d}, c.pad), gates(random_, c)),
        up_(be, placement<2>({c.gated ? c.n : 0, c.d}, c.pad),
            normals(random_, c.gated ? c.n * c.d : 0)),
        o_(be, placement<2>({c.n, c.d}, c.pad), {}) {}

  void operator()() {
    const auto up = c_.gated ? up_.cview() : matrix_view<const T, space_of<B>>{};
    const auto o = c_.output == aliasing::none    ? o_.view()
                   : c_.output == aliasing::first ? gate_.view()
                                                  : up_.view();
    ops::activation(be_, o, gate_.cview(), up, c_.kind);
  }
  void verify(result& r) const {
    const auto& o = c_.output == aliasing::none ? o_ : c_.output == aliasing::first ? gate_ : up_;
    detail::expect_guards(r, "o", o);
    if (&o != &gate_) detail::expect_unchanged(r, "gate", gate_);
    if (&o != &up_) detail::expect_unchanged(r, "up", up_);
    detail::expect_values<B, T>(r, "o", o.values(),
                                oracle::activation(c_, gate_.original(), up_.original()));
  }

 private:
  static std::vector<double> gates(random_generator& random, const activation_case& c) {
    auto x = normals(random, c.n * c.d, 2.0);
    for (std::size_t i = 0; c.extreme && i < x.size(); ++i) {
      constexpr double below_all = -std::numeric_limits<double>::infinity();
      const double large[] = {30.0, -90.0, 1e4, -1e4, 710.0, -800.0, 0.0, below_all};
      if (i % 2 == 0) x[i] = large[i / 2 % 8];
    }
    return x;
  }

  B& be_;
  activation_case c_;
  random_generator random_;
  guarded<T, 2, B> gate_;
  guarded<T, 2, B> up_;
  guarded<T, 2, B> o_;
};

template <class B, class T>
class trial<B, T, add_case> {
 public:
  trial(B& be, const add_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        a_(be, placement<2>({c.n, c.d}, c.pad), normals(random_, c.n * c.d)),
        b_(be, placement<2>({c.n, c.d}, c.pad, c.repeat_b), normals(random_, c.n * c.d)),
        o_(be, placement<2>({c.n, c.d}, c.pad), {}) {}

  void operator()() {
    const auto o = c_.output == aliasing::none    ? o_.view()
                   : c_.output == aliasing::first ? a_.view()
                                                  : b_.view();
    ops::add(be_, o, a_.cview(), b_.cview());
  }
  void verify(result& r) const {
    const auto& o = c_.output == aliasing::none ? o_ : c_.output == aliasing::first ? a_ : b_;
    detail::expect_guards(r, "o", o);
    if (&o != &a_) detail::expect_unchanged(r, "a", a_);
    if (&o != &b_) detail::expect_unchanged(r, "b", b_);
    detail::expect_values<B, T>(r, "o", o.values(), oracle::add(a_.original(), b_.original()));
  }

 private:
  B& be_;
  add_case c_;
  random_generator random_;
  guarded<T, 2, B> a_;
  guarded<T, 2, B> b_;
  guarded<T, 2, B> o_;
};

/// Runs one case and adds its result. An exception is a failure of the case, not of the suite.
template <class T, class B, class Case>
void check(B& be, const Case& c, report& all, std::string path = "native") {
  result r{.op = Case::op,
           .dtype = std::string(dtype_name<T>()),
           .path = std::move(path),
           .case_text = c.text(),
           .seed = c.seed};
  try {
    trial<B, T, Case> t(be, c);
    t();
    be.synchronize();
    t.verify(r);
  } catch (const std::exception& e) {
    r.fail(std::string("throws: ") + e.what());
  }
  all.add(std::move(r));
}

}  // namespace gistkv::conformance
