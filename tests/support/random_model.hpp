// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::test {

/// Variants that the block must handle by configuration.
struct random_model_options {
  index_t n_layers = 2;
  index_t n_heads = 4;
  index_t n_kv_heads = 2;
  index_t head_dim = 4;
  index_t d_model = 12;
  index_t d_ff = 20;
  index_t n_vocab = 30;
  bool biases = false;
  bool head_norms = false;
  bool tied_head = true;
  std::uint64_t seed = 1;
};

/// A model of random numbers that owns its weights.
inline model::host_model random_model(const random_model_options& o) {
  auto numbers = std::make_shared<std::vector<std::vector<float>>>();
  random_generator random(o.seed);
  auto matrix = [&](const char* name, index_t rows, index_t cols, double mean, double scale) {
    std::vector<float>& x = numbers->emplace_back();
    for (index_t i = 0; i < rows * cols; ++i) {
      x.push_back(static_cast<float>(mean + scale * random.normal()));
    }
    return host_matrix{name, weight_type::f32, rows, cols,
                       std::as_bytes(std::span<const float>(x))};
  };
  auto map = [&](const char* name, index_t out, index_t in) {
    model::host_linear m{matrix(name, out, in, 0, 1.5 / std::sqrt(static_cast<double>(in))), {}};
    if (o.biases) m.bias = matrix("bias", 1, out, 0, 0.3);
    return m;
  };
  numbers->reserve(1000);
  model::host_model m;
  m.config.architecture = "random";
  m.config.n_layers = o.n_layers;
  m.config.d_model = o.d_model;
  m.config.n_heads = o.n_heads;
  m.config.n_kv_heads = o.n_kv_heads;
  m.config.head_dim = o.head_dim;
  m.config.d_ff = o.d_ff;
  m.config.n_vocab = o.n_vocab;
  m.config.tied_head = o.tied_head;
  m.token_embedding = matrix("embedding", o.n_vocab, o.d_model, 0, 1);
  for (index_t l = 0; l < o.n_layers; ++l) {
    model::host_block b;
    b.attention_norm = matrix("norm", 1, o.d_model, 1, 0.2);
    b.query = map("q", o.n_heads * o.head_dim, o.d_model);
    b.key = map("k", o.n_kv_heads * o.head_dim, o.d_model);
    b.value = map("v", o.n_kv_heads * o.head_dim, o.d_model);
    if (o.head_norms) b.query_norm = matrix("q norm", 1, o.head_dim, 1, 0.2);
    if (o.head_norms) b.key_norm = matrix("k norm", 1, o.head_dim, 1, 0.2);
    b.output = map("o", o.d_model, o.n_heads * o.head_dim);
    b.feed_forward_norm = matrix("norm", 1, o.d_model, 1, 0.2);
    b.gate = map("gate", o.d_ff, o.d_model);
    b.up = map("up", o.d_ff, o.d_model);
    b.down = map("down", o.d_model, o.d_ff);
    m.blocks.push_back(b);
  }
  m.final_norm = matrix("norm", 1, o.d_model, 1, 0.2);
  if (!o.tied_head) m.head = map("head", o.n_vocab, o.d_model);
  m.storage.push_back(numbers);
  return m;
}

/// The element of a float32 host matrix.
inline double element(const host_matrix& m, index_t row, index_t col) {
  float x = 0;
  std::memcpy(&x, m.data.data() + sizeof(float) * static_cast<std::size_t>(row * m.cols + col),
              sizeof(float));
  return static_cast<double>(x);
}

/// The whole model as plain loops in double over a visibility predicate, written from the formulas:
/// the independent witness of transformer, cache and masks. float32 matrices only.
struct brute_force {
  using rows = std::vector<std::vector<double>>;

  rows hidden;                     ///< [n][d_model], normed
  rows logits;                     ///< [n][n_vocab + n_gist]
  std::vector<rows> keys, values;  ///< [layer][n][n_kv_heads * head_dim]

  template <class Visible>
  brute_force(const model::host_model& m, const model::gist_rows& gists,
              std::span<const token_t> tokens, index_t first_position, Visible&& visible) {
    const model::model_config& c = m.config;
    const auto n = static_cast<index_t>(tokens.size());
    rows x;
    for (const token_t t : tokens) {
      std::vector<double> e;
      for (index_t j = 0; j < c.d_model; ++j) {
        e.push_back(
            t < c.n_vocab
                ? element(m.token_embedding, t, j)
                : static_cast<double>(
                      gists.input[static_cast<std::size_t>((t - c.n_vocab) * c.d_model + j)]));
      }
      x.push_back(e);
    }
    for (const model::host_block& b : m.blocks) {
      rows q, k, v;
      for (index_t i = 0; i < n; ++i) {
        const auto normed = norm(at(x, i), b.attention_norm, c.norm_eps);
        q.push_back(heads(apply(b.query, normed), b.query_norm, c, first_position + i, true));
        k.push_back(heads(apply(b.key, normed), b.key_norm, c, first_position + i, true));
        v.push_back(apply(b.value, normed));
      }
      for (index_t i = 0; i < n; ++i) {
        std::vector<double> o(static_cast<std::size_t>(c.n_heads * c.head_dim), 0.0);
        for (index_t h = 0; h < c.n_heads; ++h) {
          const index_t kv = h / (c.n_heads / c.n_kv_heads) * c.head_dim;
          double total = 0;
          for (index_t j = 0; j < n; ++j) {
            if (!visible(i, j)) continue;
            double dot = 0;
            for (index_t e = 0; e < c.head_dim; ++e) {
              dot += at(at(q, i), h * c.head_dim + e) * at(at(k, j), kv + e);
            }
            const double weight = std::exp(dot / std::sqrt(static_cast<double>(c.head_dim)));
            total += weight;
            for (index_t e = 0; e < c.head_dim; ++e) {
              o[static_cast<std::size_t>(h * c.head_dim + e)] += weight * at(at(v, j), kv + e);
            }
          }
          for (index_t e = 0; e < c.head_dim && total > 0; ++e) {
            o[static_cast<std::size_t>(h * c.head_dim + e)] /= total;
          }
        }
        add(x[static_cast<std::size_t>(i)], apply(b.output, o));
      }
      for (index_t i = 0; i < n; ++i) {
        const auto normed = norm(at(x, i), b.feed_forward_norm, c.norm_eps);
        auto gate = apply(b.gate, normed);
        const auto up = apply(b.up, normed);
        for (std::size_t j = 0; j < gate.size(); ++j) {
          gate[j] = gate[j] / (1 + std::exp(-gate[j])) * up[j];
        }
        add(x[static_cast<std::size_t>(i)], apply(b.down, gate));
      }
      keys.push_back(k);
      values.push_back(v);
    }
    for (index_t i = 0; i < n; ++i) {
      hidden.push_back(norm(at(x, i), m.final_norm, c.norm_eps));
      logits.push_back(
          apply(c.tied_head ? model::host_linear{m.token_embedding, {}} : m.head, hidden.back()));
      const auto& table = gists.head.empty() ? gists.input : gists.head;
      for (index_t g = 0; g < gists.n_gist; ++g) {
        double sum = 0;
        for (index_t j = 0; j < c.d_model; ++j) {
          sum += static_cast<double>(table[static_cast<std::size_t>(g * c.d_model + j)]) *
                 at(hidden.back(), j);
        }
        logits.back().push_back(sum);
      }
    }
  }

 private:
  template <class V>
  static const typename V::value_type& at(const V& v, index_t i) {
    return v[static_cast<std::size_t>(i)];
  }
  static void add(std::vector<double>& x, const std::vector<double>& y) {
    for (std::size_t j = 0; j < x.size(); ++j) x[j] += y[j];
  }
  static std::vector<double> apply(const model::host_linear& m, const std::vector<double>& x) {
    std::vector<double> y;
    for (index_t r = 0; r < m.weight.rows; ++r) {
      double sum = m.bias.empty() ? 0.0 : element(m.bias, 0, r);
      for (index_t j = 0; j < m.weight.cols; ++j) sum += element(m.weight, r, j) * at(x, j);
      y.push_back(sum);
    }
    return y;
  }
  static std::vector<double> norm(std::vector<double> x, const host_matrix& w, double eps) {
    double mean = 0;
    for (const double e : x) mean += e * e / static_cast<double>(x.size());
    for (std::size_t j = 0; j < x.size(); ++j) {
      x[j] *= element(w, 0, static_cast<index_t>(j)) / std::sqrt(mean + eps);
    }
    return x;
  }
  static std::vector<double> heads(std::vector<double> x, const host_matrix& w,
                                   const model::model_config& c, index_t position, bool rotate) {
    for (index_t begin = 0; begin < static_cast<index_t>(x.size()); begin += c.head_dim) {
      const auto first = x.begin() + begin;
      if (!w.empty()) {
        const auto normed = norm(std::vector<double>(first, first + c.head_dim), w, c.norm_eps);
        std::copy(normed.begin(), normed.end(), first);
      }
      const index_t half = c.head_dim / 2;
      for (index_t j = 0; j < half && rotate; ++j) {
        const auto f = static_cast<float>(
            std::pow(c.rope.theta, -static_cast<double>(j) / static_cast<double>(half)));
        const double a = static_cast<double>(position) * static_cast<double>(f);
        const double x0 = first[j];
        const double x1 = first[j + half];
        first[j] = x0 * std::cos(a) - x1 * std::sin(a);
        first[j + half] = x1 * std::cos(a) + x0 * std::sin(a);
      }
    }
    return x;
  }
};

}  // namespace gistkv::test
