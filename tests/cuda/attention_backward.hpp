// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_backward_rows.hpp>

/// One text for the kernels of the backward pass, and the derivatives in double precision by their
/// formulas, from the spans that the forward kernels' tests prove.

namespace gistkv::emulation {

template <class T>
class backward_case {
 public:
  backward_case(text_case<T, T>& text, const layout_options& options, double scale)
      : text_(&text),
        options_(options),
        n_heads_(options.n_kv_heads * options.group),
        scale_(scale),
        random_(options.seed + 77) {
    const int d = options.head_dim;
    for (std::size_t i = 0; i < text.want_o.size(); ++i) {
      const int row = static_cast<int>(i) / d;
      text.o.row(row / n_heads_, row % n_heads_)[static_cast<int>(i) % d] =
          T(static_cast<float>(text.want_o[i]));
    }
    d_o_ = rows<T>(text.n_tokens, n_heads_, d, 8);
    dq_ = rows<T>(text.n_tokens, n_heads_, d, 2);
    fill(d_o_, text.n_tokens, n_heads_);
    for (const int p : {local_part, own_part}) {
      dk_[p] = rows<T>(options.n_kv_heads, text.n_rows[p], d, 8);
      dv_[p] = rows<T>(options.n_kv_heads, text.n_rows[p], d, 0);
      fill(dk_[p], options.n_kv_heads, text.n_rows[p]);
      fill(dv_[p], options.n_kv_heads, text.n_rows[p]);
    }
    statistics_.resize(static_cast<std::size_t>(text.n_tokens * n_heads_));
    expect();
  }

  attention_backward_call<T> call() {
    attention_backward_call<T> c;
    text_case<T, T>& t = *text_;
    c.forward.q = t.q.data();
    c.forward.q_token = t.q.head_stride();
    c.forward.q_head = t.q.row_stride();
    c.forward.o = t.o.data();
    c.forward.o_token = t.o.head_stride();
    c.forward.o_head = t.o.row_stride();
    for (const int p : {local_part, own_part}) {
      c.forward.parts[p] = {t.k[p].data(),       t.v[p].data(),        t.k[p].head_stride(),
                            t.k[p].row_stride(), t.v[p].head_stride(), t.v[p].row_stride(),
                            t.n_rows[p]};
      c.dk[p] = dk_[p].data();
      c.dk_head[p] = dk_[p].head_stride();
      c.dk_row[p] = dk_[p].row_stride();
      c.dv[p] = dv_[p].data();
      c.dv_head[p] = dv_[p].head_stride();
      c.dv_row[p] = dv_[p].row_stride();
    }
    c.forward.spans = t.spans.data();
    c.forward.n_tokens = t.n_tokens;
    c.d_o = d_o_.data();
    c.d_o_token = d_o_.head_stride();
    c.d_o_head = d_o_.row_stride();
    c.dq = dq_.data();
    c.dq_token = dq_.head_stride();
    c.dq_head = dq_.row_stride();
    c.statistics = statistics_.data();
    c.n_kv_heads = options_.n_kv_heads;
    c.group = options_.group;
    c.scale = static_cast<float>(scale_);
    return c;
  }

  /// Greatest error of dq, dk, dv as a share of what rounding explains.
  double worst() {
    double most = 0.0;
    take(most, dq_, text_->n_tokens, n_heads_, want_q_);
    for (const int p : {local_part, own_part}) {
      take(most, dk_[p], options_.n_kv_heads, text_->n_rows[p], want_k_[p]);
      take(most, dv_[p], options_.n_kv_heads, text_->n_rows[p], want_v_[p]);
    }
    return most;
  }
  bool guards_hold() const {
    bool hold = dq_.guards_hold();
    for (const int p : {local_part, own_part}) {
      hold = hold && dk_[p].guards_hold() && dv_[p].guards_hold();
    }
    return hold;
  }

 private:
  /// Sums of terms, and the sum of their sizes, each of which has an error of its own.
  struct expected {
    std::vector<double> value, size;
  };
  static double number(T x) { return static_cast<double>(static_cast<float>(x)); }
  void fill(rows<T>& x, index_t n_heads, index_t n_rows) {
    for (index_t h = 0; h < n_heads; ++h) {
      for (index_t r = 0; r < n_rows; ++r) {
        for (int e = 0; e < options_.head_dim; ++e) {
          x.row(h, r)[e] = T(static_cast<float>(random_.normal()));
        }
      }
    }
  }
  void start(expected& to, rows<T>* from, index_t n_heads, index_t n_rows) {
    for (index_t h = 0; h < n_heads; ++h) {
      for (index_t r = 0; r < n_rows; ++r) {
        for (int e = 0; e < options_.head_dim; ++e) {
          to.value.push_back(from != nullptr ? number(from->row(h, r)[e]) : 0.0);
          to.size.push_back(0.0);
        }
      }
    }
  }
  void add(expected& to, index_t row, const T* x, double factor, double size) {
    for (int e = 0; e < options_.head_dim; ++e) {
      const auto at = static_cast<std::size_t>(row * options_.head_dim + e);
      to.value[at] += factor * number(x[e]);
      to.size[at] += size * std::abs(number(x[e]));
    }
  }
  double dot(const T* a, const T* b) const {
    double sum = 0.0;
    for (int e = 0; e < options_.head_dim; ++e) sum += number(a[e]) * number(b[e]);
    return sum;
  }

  void expect() {
    text_case<T, T>& t = *text_;
    start(want_q_, nullptr, t.n_tokens, n_heads_);
    for (const int p : {local_part, own_part}) {
      start(want_k_[p], &dk_[p], options_.n_kv_heads, t.n_rows[p]);
      start(want_v_[p], &dv_[p], options_.n_kv_heads, t.n_rows[p]);
    }
    for (int i = 0; i < t.n_tokens; ++i) {
      const visible_spans seen = t.spans[static_cast<std::size_t>(i)];
      for (int h = 0; h < n_heads_; ++h) {
        const int kv_head = h / options_.group;
        struct visible {
          int part;
          index_t row;
          double p;
        };
        std::vector<visible> keys;
        for (index_t r = 0; r < seen.anchors; ++r) keys.push_back({own_part, r, 0.0});
        for (index_t r = seen.local_begin; r < seen.local_end; ++r) {
          keys.push_back({local_part, r, 0.0});
        }
        const T* q = t.q.row(i, h);
        const T* d_o = d_o_.row(i, h);
        double top = -std::numeric_limits<double>::infinity(), sum = 0.0, along = 0.0;
        for (int e = 0; e < options_.head_dim; ++e)
          along += number(d_o[e]) * number(t.o.row(i, h)[e]);
        for (visible& k : keys) {
          k.p = scale_ * dot(q, t.k[k.part].row(kv_head, k.row));
          top = std::max(top, k.p);
        }
        for (visible& k : keys) sum += k.p = std::exp(k.p - top);
        for (const visible& k : keys) {
          const double p = k.p / sum;
          const double change = dot(d_o, t.v[k.part].row(kv_head, k.row));
          const double ds = scale_ * p * (change - along);
          const double size = scale_ * p * (std::abs(change) + std::abs(along));
          add(want_q_, index_t{i} * n_heads_ + h, t.k[k.part].row(kv_head, k.row), ds, size);
          const index_t row = kv_head * t.n_rows[k.part] + k.row;
          add(want_k_[k.part], row, q, ds, size);
          add(want_v_[k.part], row, d_o, p, p);
        }
      }
    }
  }

  /// Every term is rounded to T once where it goes through the matrix unit, and has the error of
  /// its weight, which float's roundings of the score give; the result is rounded to T.
  void take(double& most, rows<T>& found, index_t n_heads, index_t n_rows, const expected& want) {
    const double of_terms = std::max(2e-5, epsilon_of<T>());
    for (index_t h = 0; h < n_heads; ++h) {
      for (index_t r = 0; r < n_rows; ++r) {
        for (int e = 0; e < options_.head_dim; ++e) {
          const auto at = static_cast<std::size_t>((h * n_rows + r) * options_.head_dim + e);
          const double error = std::abs(number(found.row(h, r)[e]) - want.value[at]);
          const double budget =
              epsilon_of<T>() * std::abs(want.value[at]) + of_terms * want.size[at] + 1e-6;
          most = std::isnan(error) ? std::numeric_limits<double>::infinity()
                                   : std::max(most, error / budget);
        }
      }
    }
  }

  text_case<T, T>* text_;
  layout_options options_;
  int n_heads_;
  double scale_;
  random_generator random_;
  rows<T> d_o_, dq_, dk_[n_parts], dv_[n_parts];
  std::vector<row_statistics> statistics_;
  expected want_q_, want_k_[n_parts], want_v_[n_parts];
};

}  // namespace gistkv::emulation
