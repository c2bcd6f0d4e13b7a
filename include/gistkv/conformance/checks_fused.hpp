// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <span>
#include <vector>

#include <gistkv/conformance/cases_fused.hpp>
#include <gistkv/conformance/checks_attention.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/linear.hpp>

/// The trials of several maps and of several sequences in one call.

namespace gistkv::conformance {

namespace detail {

/// A weight, as stored and as packed.
template <class B>
struct map_weight {
  random_weight stored;
  packed_weight_t<B> packed;

  map_weight(B& be, random_generator& random, weight_type type, index_t rows, index_t cols)
      : stored(random, type, rows, cols), packed(be.pack(stored.matrix)) {}
};

}  // namespace detail

template <class B, class T>
class trial<B, T, linears_case> {
 public:
  trial(B& be, const linears_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        x_(be, placement<2>({c.n, c.d_in}, c.pad), normals(random_, c.n * c.d_in)),
        o_(be, placement<2>({c.n, c.width()}, c.pad), {}) {
    for (const index_t d : c.d_out) maps_.emplace_back(be, random_, c.weight, d, c.d_in);
  }

  void operator()() {
    std::vector<linear_output<B, T>> outputs;
    index_t column = 0;
    for (const auto& m : maps_) {
      outputs.push_back({o_.view().slice(1, column, m.packed.rows()), &m.packed});
      column += m.packed.rows();
    }
    ops::linears<B, T>(be_, outputs, x_.cview(), c_.coarse);
  }
  void verify(result& r) const {
    detail::expect_guards(r, "o", o_);
    detail::expect_unchanged(r, "x", x_);
    const std::vector<double> x = x_.original();
    std::vector<expected> parts;
    for (std::size_t i = 0; i < maps_.size(); ++i) {
      parts.push_back(oracle::linear(c_.map(i), x, maps_[i].stored.values, {}));
      if (block_length(c_.weight) > 1) add_coarse(parts.back(), x, maps_[i].stored.values);
    }
    expected want;  // Rows of the outputs side by side.
    for (index_t row = 0; row < c_.n; ++row) {
      for (std::size_t i = 0; i < parts.size(); ++i) {
        for (index_t j = row * c_.d_out[i]; j < (row + 1) * c_.d_out[i]; ++j) {
          want.push(oracle::at(parts[i].value, j), oracle::at(parts[i].scale, j));
        }
      }
    }
    detail::expect_values<B, T>(r, "o", o_.values(), want);
  }

 private:
  /// Half a level of 8 bits for each 32 neighbours of a coarse row, in units of the budget.
  void add_coarse(expected& want, std::span<const double> x, std::span<const double> w) const {
    constexpr index_t block = 32;
    const double unit = unit_budget<T, factor_t<B, T>>(linears_case::op);
    const auto d_out = static_cast<index_t>(w.size()) / c_.d_in;
    for (index_t i = c_.coarse.begin; i < c_.coarse.end; ++i) {
      for (index_t j = 0; j < d_out; ++j) {
        double error = 0.0;
        for (index_t k = 0; k < c_.d_in; k += block) {
          double largest = 0.0;
          double size = 0.0;
          for (index_t e = k; e < std::min(k + block, c_.d_in); ++e) {
            largest = std::max(largest, std::abs(oracle::at(x, i * c_.d_in + e)));
            size += std::abs(oracle::at(w, j * c_.d_in + e));
          }
          error += 1.0001 * largest / 254.0 * size;
        }
        want.scale[static_cast<std::size_t>(i * d_out + j)] += error / unit;
      }
    }
  }

  B& be_;
  linears_case c_;
  random_generator random_;
  std::deque<detail::map_weight<B>> maps_;
  guarded<T, 2, B> x_;
  guarded<T, 2, B> o_;
};

template <class B, class T>
class trial<B, T, attention_batch_case> {
 public:
  trial(B& be, const attention_batch_case& c) : be_(be) {
    std::size_t scratch = 0;
    for (const attention_case& one : c.calls) {
      parts_.emplace_back(be, one);
      scratch =
          std::max(scratch, ops::attention_workspace_size<B, T>(
                                one.n_q, one.n_heads, one.n_kv_heads, one.n_keys(), one.head_dim));
    }
    scratch_ = workspace<B>(be, scratch);
  }

  void operator()() {
    std::vector<attention_call<T, space_of<B>>> calls;
    for (auto& part : parts_) calls.push_back(part.call());
    ops::attention_batch<B, T>(be_, calls, parts_.front().scale(), scratch_);
  }
  void verify(result& r) const {
    for (const auto& part : parts_) part.verify(r);
  }

 private:
  B& be_;
  std::deque<attention_trial<B, T, T>> parts_;
  workspace<B> scratch_;
};

}  // namespace gistkv::conformance
