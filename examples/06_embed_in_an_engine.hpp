// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/sentence.hpp>

/// An inference engine that is not ours, cut down to one layer: its own memory, its own KV layout
/// and its own attention. Of gistkv it takes the books only. Where the engine already had code for
/// its KV cache, the lines that call `ledger_` are what is added to it.
namespace foreign {

using gistkv::index_t;
using gistkv::token_t;

/// Rows of keys and values in a pool of slots, [slot][head][dim] each. A slot that is given back is
/// the next to be taken: the pool never grows past the most rows that were held at a time.
class kv_pool {
 public:
  kv_pool(std::size_t n_heads, std::size_t head_dim) : row_size_(n_heads * head_dim) {}

  std::size_t take() {
    if (free_.empty()) {
      free_.push_back(n_slots_++);
      keys_.resize(n_slots_ * row_size_);
      values_.resize(n_slots_ * row_size_);
    }
    const std::size_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give_back(std::size_t slot) {
    // What nobody may read any more must not go unnoticed if somebody does.
    const auto begin = static_cast<std::ptrdiff_t>(slot * row_size_);
    const auto n = static_cast<std::ptrdiff_t>(row_size_);
    std::fill_n(keys_.begin() + begin, n, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(values_.begin() + begin, n, std::numeric_limits<float>::quiet_NaN());
    free_.push_back(slot);
  }

  float* key(std::size_t slot) { return keys_.data() + slot * row_size_; }
  float* value(std::size_t slot) { return values_.data() + slot * row_size_; }
  std::size_t n_slots() const { return n_slots_; }
  std::size_t n_taken() const { return n_slots_ - free_.size(); }

 private:
  std::size_t row_size_;
  std::size_t n_slots_ = 0;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<std::size_t> free_;
};

/// Stands for embedding, projections and rotation: query (0), key (1) or value (2) of a token,
/// which depend on the token and on its position.
inline std::vector<float> projection(int which, token_t token, index_t position, std::size_t n) {
  const auto id = static_cast<std::uint64_t>(token);
  const auto at = static_cast<std::uint64_t>(position);
  gistkv::random_generator random(gistkv::splitmix64(id * 3 + static_cast<std::uint64_t>(which)) ^
                                  gistkv::splitmix64(~at));
  std::vector<float> x(n);
  for (float& e : x) e = static_cast<float>(random.uniform(-2, 2));
  return x;
}

/// softmax(q k / sqrt(head_dim)) v for each head, over the slots listed.
inline std::vector<float> attend(kv_pool& pool, const std::vector<float>& q,
                                 const std::vector<std::size_t>& slots, std::size_t n_heads,
                                 std::size_t head_dim) {
  std::vector<float> o(n_heads * head_dim, 0.0F);
  std::vector<float> weights(slots.size());
  for (std::size_t h = 0; h < n_heads; ++h) {
    const std::size_t head = h * head_dim;
    float top = -std::numeric_limits<float>::infinity();
    for (std::size_t j = 0; j < slots.size(); ++j) {
      float dot = 0;
      for (std::size_t d = 0; d < head_dim; ++d) {
        dot += q[head + d] * pool.key(slots[j])[head + d];
      }
      weights[j] = dot / std::sqrt(static_cast<float>(head_dim));
      top = std::max(top, weights[j]);
    }
    float total = 0;
    for (float& w : weights) total += w = std::exp(w - top);
    for (std::size_t j = 0; j < slots.size(); ++j) {
      for (std::size_t d = 0; d < head_dim; ++d) {
        o[head + d] += weights[j] / total * pool.value(slots[j])[head + d];
      }
    }
  }
  return o;
}

class engine {
 public:
  static constexpr std::size_t n_heads = 2;
  static constexpr std::size_t head_dim = 8;

  explicit engine(gistkv::cache::cache_rule rule) : ledger_(rule), pool_(n_heads, head_dim) {}

  /// One token: writes its row, attends, drops what no later token can see.
  struct step {
    std::vector<float> output;     ///< [n_heads * head_dim]
    std::vector<index_t> dropped;  ///< Positions of the rows that went behind this token.
  };
  step decode(token_t token, bool is_gist) {
    const gistkv::cache::row_ledger::placement at = ledger_.append(is_gist);

    const std::size_t slot = pool_.take();
    const std::size_t n = n_heads * head_dim;
    const std::vector<float> k = projection(1, token, at.position, n);
    const std::vector<float> v = projection(2, token, at.position, n);
    std::copy(k.begin(), k.end(), pool_.key(slot));
    std::copy(v.begin(), v.end(), pool_.value(slot));
    const held_row row{slot, at.position, at.anchor >= 0};
    if (at.anchor >= 0) anchors_.push_back(row);
    if (at.local >= 0) locals_.push_back(row);

    // What the ledger names as two ranges is two stretches of this engine's slot tables.
    std::vector<std::size_t> seen;
    for (std::int32_t a = 0; a < at.spans.anchors; ++a) {
      seen.push_back(anchors_[static_cast<std::size_t>(a)].slot);
    }
    for (std::int32_t l = at.spans.local_begin; l < at.spans.local_end; ++l) {
      seen.push_back(locals_[static_cast<std::size_t>(l - n_dropped_)].slot);
    }
    step result{attend(pool_, projection(0, token, at.position, n), seen, n_heads, head_dim), {}};

    // A gist that leaves the local rows keeps its slot: it is an anchor.
    const std::int32_t n_dead = ledger_.live_begin() - n_dropped_;
    for (std::int32_t i = 0; i < n_dead; ++i) {
      const held_row& dead = locals_[static_cast<std::size_t>(i)];
      if (dead.is_anchor) continue;
      pool_.give_back(dead.slot);
      result.dropped.push_back(dead.position);
    }
    locals_.erase(locals_.begin(), locals_.begin() + n_dead);
    n_dropped_ += n_dead;
    ledger_.forget_dead_rows();
    return result;
  }

  /// Positions of the rows in memory, in order.
  std::vector<index_t> kept_rows() const {
    std::vector<index_t> rows;
    for (const held_row& r : anchors_) rows.push_back(r.position);
    for (const held_row& r : locals_) {
      if (!r.is_anchor) rows.push_back(r.position);
    }
    std::sort(rows.begin(), rows.end());
    return rows;
  }
  std::size_t rows_in_memory() const { return pool_.n_taken(); }
  std::size_t most_rows_in_memory() const { return pool_.n_slots(); }

 private:
  struct held_row {
    std::size_t slot;
    index_t position;
    bool is_anchor;
  };

  gistkv::cache::row_ledger ledger_;
  kv_pool pool_;
  std::vector<held_row> anchors_;  ///< By anchor index: sinks and gists.
  std::vector<held_row> locals_;   ///< By running number, from n_dropped_ on.
  std::int32_t n_dropped_ = 0;
};

/// The same outputs without a cache: nothing is ever dropped, the mask decides. Output of row q.
inline std::vector<float> masked_attention(const std::vector<token_t>& ids,
                                           const gistkv::sentence_mask& visible, index_t q) {
  const std::size_t n = engine::n_heads * engine::head_dim;
  kv_pool pool(engine::n_heads, engine::head_dim);
  std::vector<std::size_t> seen;
  for (index_t k = 0; k <= q; ++k) {
    if (!visible(q, k)) continue;
    const token_t token = ids[static_cast<std::size_t>(k)];
    const std::size_t slot = pool.take();
    const std::vector<float> key = projection(1, token, k, n);
    const std::vector<float> value = projection(2, token, k, n);
    std::copy(key.begin(), key.end(), pool.key(slot));
    std::copy(value.begin(), value.end(), pool.value(slot));
    seen.push_back(slot);
  }
  return attend(pool, projection(0, ids[static_cast<std::size_t>(q)], q, n), seen, engine::n_heads,
                engine::head_dim);
}

/// A token sequence with its gists, as numbers alone.
struct gisted_ids {
  index_t n_gist = 0;
  index_t n_sink = 0;
  token_t first_gist = 0;
  std::vector<token_t> ids;

  bool is_gist(token_t t) const { return t >= first_gist && t - first_gist < n_gist; }
};

/// Drives the engine with a sequence; on_step(i, step) sees every token. Largest difference between
/// its outputs and masked attention over everything.
template <class OnStep>
double drive(engine& e, const gisted_ids& sequence, OnStep&& on_step) {
  std::vector<std::uint8_t> flags;
  for (const token_t t : sequence.ids) flags.push_back(sequence.is_gist(t) ? 1 : 0);
  const gistkv::sentence_structure structure(
      flags, {.n_gist = sequence.n_gist, .recent = 0, .n_sink = sequence.n_sink});
  double worst = 0;
  for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
    const engine::step step = e.decode(sequence.ids[i], flags[i] != 0);
    const std::vector<float> want =
        masked_attention(sequence.ids, structure.mask(), static_cast<index_t>(i));
    for (std::size_t j = 0; j < want.size(); ++j) {
      const double error = std::abs(static_cast<double>(step.output[j] - want[j]));
      // Not a number: a row was read after it had been given back.
      worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
    }
    on_step(i, step);
  }
  return worst;
}

}  // namespace foreign
