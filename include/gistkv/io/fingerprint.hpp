// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <gistkv/core/hash.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {

namespace detail {

class fingerprint_hash {
 public:
  template <class Number>
  requires std::integral<Number> || std::is_enum_v<Number>
  void add(Number value) {
    const auto wide = std::bit_cast<std::array<std::byte, 8>>(static_cast<std::int64_t>(value));
    hash_.update(wide);
  }
  void add(double value) { add(std::bit_cast<std::int64_t>(value)); }
  void add(std::string_view text) {
    add(text.size());  // Lengths keep neighbouring fields apart.
    hash_.update(text);
  }
  void add(const host_matrix& m) {
    add(std::string_view(m.name));
    add(m.type);
    add(m.rows);
    add(m.cols);
    add(m.data.size());
    hash_.update(m.data);
  }
  void add(const model::host_linear& linear) {
    add(linear.weight);
    add(linear.bias);
  }
  void add(const model::rope_config& r) {
    add(r.theta);
    add(r.scaling);
    add(r.factor);
    add(r.original_context);
    add(r.low_freq_factor);
    add(r.high_freq_factor);
    add(r.beta_fast);
    add(r.beta_slow);
    add(r.attention_factor);
    add(r.frequency_divisors.size());
    for (const float divisor : r.frequency_divisors) add(static_cast<double>(divisor));
  }
  void add(const model::model_config& c) {
    add(std::string_view(c.architecture));
    for (const index_t n : {c.n_layers, c.d_model, c.n_heads, c.n_kv_heads, c.head_dim, c.d_ff,
                            c.n_vocab, c.n_context}) {
      add(n);
    }
    add(c.norm);
    add(c.norm_eps);
    add(c.activation);
    add(c.rope);
    add(c.tied_head);
    add(c.attention_scale);
  }

  std::uint64_t digest() const { return hash_.digest(); }

 private:
  xxh64 hash_;
};

}  // namespace detail

/// XXH64 over everything that a model computes with: each config field but the free name, and name,
/// type, extents and all bytes of each tensor. Equal files give equal numbers; a single bit changes
/// it. Other formats of the same weights give other numbers. Reads the whole model, at memory
/// speed.
inline std::uint64_t fingerprint(const model::host_model& m) {
  detail::fingerprint_hash hash;
  hash.add(m.config);
  hash.add(m.token_embedding);
  for (const model::host_block& b : m.blocks) {
    for (const host_matrix* norm :
         {&b.attention_norm, &b.query_norm, &b.key_norm, &b.feed_forward_norm}) {
      hash.add(*norm);
    }
    for (const model::host_linear* linear :
         {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
      hash.add(*linear);
    }
  }
  hash.add(m.final_norm);
  hash.add(m.head);
  return hash.digest();
}

}  // namespace gistkv::io
