// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/mask/sentence.hpp>

/// Ragged batches of gisted texts for the attention kernels, and what is right for them: attention
/// in double precision over all rows of the text, under the rule of the paper. Nothing of the
/// expected result goes through spans, parts or plans; the kernels see nothing else.

namespace gistkv::emulation {

using namespace backends::cuda_detail;

struct layout_options {
  index_t n_gist = 4;
  index_t recent = 0;
  int group = 3;
  int n_kv_heads = 1;
  int head_dim = 64;
  int n_sequences = 1;
  int most_tokens = 100;   ///< Queries of a sequence.
  int most_past = 200;     ///< Rows before the first query.
  double magnitude = 1.0;  ///< Of the queries: scores of a few hundred if it is large.
  bool lse = true;
  bool prefix = true;  ///< Anchors of the past may lie in a part of their own.
  std::uint64_t seed = 1;

  std::string text() const {
    return "N_g " + std::to_string(n_gist) + ", K " + std::to_string(recent) + ", group " +
           std::to_string(group) + ", KV heads " + std::to_string(n_kv_heads) + ", head dim " +
           std::to_string(head_dim) + ", sequences " + std::to_string(n_sequences) + ", seed " +
           std::to_string(seed);
  }
};

/// Rows of T with memory around them that no kernel may touch.
template <class T>
class rows {
 public:
  rows() = default;
  rows(index_t n_heads, index_t n_rows, index_t d, index_t pad)
      : n_rows_(n_rows), d_(d), stride_(d + pad) {
    memory_.resize(static_cast<std::size_t>(2 * gap + n_heads * (n_rows * stride_ + gap)), guard());
  }
  static T guard() {
    if constexpr (std::is_same_v<T, float>) {
      return std::numeric_limits<float>::quiet_NaN();
    } else if constexpr (std::is_same_v<T, q8>) {
      return {0x7f};  // Four of them are a scale of 3e38.
    } else {
      T x;
      x.bits = 0x7fff;  // NaN: whoever reads it shows.
      return x;
    }
  }
  index_t row_stride() const { return stride_; }
  index_t head_stride() const { return n_rows_ * stride_ + gap; }
  T* data() { return memory_.data() + first(); }
  T* row(index_t head, index_t r) { return data() + head * head_stride() + r * stride_; }
  bool guards_hold() const {
    std::size_t n = 0;
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const index_t at = static_cast<index_t>(i) - first();
      const index_t in_head = at % head_stride();
      const bool inside = at >= 0 && in_head < n_rows_ * stride_ && in_head % stride_ < d_;
      const T expected = guard();
      n += !inside && std::memcmp(&memory_[i], &expected, sizeof(T)) != 0;
    }
    return n == 0;
  }

 private:
  static constexpr index_t gap = 64;
  /// The first row begins where 16 bytes do.
  index_t first() const {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return gap / 2 + static_cast<index_t>((16 - at % 16) % 16 / sizeof(T));
  }
  index_t n_rows_ = 0, d_ = 0, stride_ = 1;
  std::vector<T> memory_;
};

/// One sequence: its text, its rows where a cache of KV would have them, and the expected result.
template <class T, class KV>
struct text_case {
  int n_past = 0, n_tokens = 0;
  std::vector<visible_spans> spans;
  rows<T> q, o, lse;
  rows<KV> k[n_parts], v[n_parts];
  std::int32_t n_rows[n_parts] = {};
  std::int32_t n_unseen[n_parts] = {};  ///< Rows of the part behind these, NaN.
  std::vector<double> want_o, budget_o, want_lse, budget_lse;  ///< [token, head, (d)]
};

template <class T, class KV = T>
class layout {
 public:
  explicit layout(const layout_options& options) : options_(options), random_(options.seed) {
    for (int i = 0; i < options.n_sequences; ++i) cases_.emplace_back();
    for (auto& c : cases_) make(c);
  }

  double scale() const { return 1.0 / std::sqrt(static_cast<double>(options_.head_dim)); }
  std::deque<text_case<T, KV>>& cases() { return cases_; }

  /// As the backend would launch it, in tiles of so many rows.
  attention_batch<T, KV> batch(int tile_rows) {
    attention_batch<T, KV> b;
    b.n_kv_heads = options_.n_kv_heads;
    b.group = options_.group;
    b.tile_tokens = tile_rows / options_.group;
    b.scale = static_cast<float>(scale());
    for (auto& c : cases_) {
      attention_sequence<T, KV>& s = b.sequences[b.n_sequences++];
      s.q = c.q.data();
      s.q_token = c.q.head_stride();
      s.q_head = c.q.row_stride();
      s.o = c.o.data();
      s.o_token = c.o.head_stride();
      s.o_head = c.o.row_stride();
      if (options_.lse) {
        s.lse = c.lse.data();
        s.lse_token = c.lse.head_stride();
        s.lse_head = c.lse.row_stride();
      }
      for (int p = 0; p < n_parts; ++p) {
        s.parts[p] = {c.k[p].data(),
                      c.v[p].data(),
                      c.k[p].head_stride(),
                      c.k[p].row_stride(),
                      c.v[p].head_stride(),
                      c.v[p].row_stride(),
                      c.n_rows[p] + c.n_unseen[p]};
      }
      s.spans = c.spans.data();
      s.n_tokens = c.n_tokens;
      s.first_tile = b.n_tiles;
      b.n_tiles += ceil_div(c.n_tokens, b.tile_tokens);
    }
    return b;
  }

  struct outcome {
    double worst =
        0.0;  ///< Greatest error as a share of what rounding explains; NaN counts as inf.
    double largest = 0.0;  ///< Greatest |expected|.
    bool guards_hold = true;
  };
  /// Of what stands in o and lse. The weights, of which the greatest is 1 before the division, and
  /// the result are each rounded once to T.
  outcome compare() {
    outcome all;
    const auto take = [&all](double found, double want, double budget) {
      const bool equal = found == want;  // Infinities too.
      const double error = equal ? 0.0 : std::abs(found - want) / budget;
      all.worst =
          std::max(all.worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
      all.largest = std::max(all.largest, std::abs(want));
    };
    const int n_heads = options_.group * options_.n_kv_heads;
    for (auto& c : cases_) {
      std::size_t at = 0;
      for (int i = 0; i < c.n_tokens; ++i) {
        for (int h = 0; h < n_heads; ++h) {
          const auto row = static_cast<std::size_t>(i * n_heads + h);
          if (options_.lse) {
            take(number(*c.lse.row(i, h)), c.want_lse[row], c.budget_lse[row]);
          }
          for (int d = 0; d < options_.head_dim; ++d, ++at) {
            take(number(c.o.row(i, h)[d]), c.want_o[at], c.budget_o[at]);
          }
        }
      }
      all.guards_hold = all.guards_hold && c.o.guards_hold() && c.lse.guards_hold();
    }
    return all;
  }

 private:
  static constexpr std::int32_t unseen_rows = 5;

  static double number(T x) { return static_cast<double>(static_cast<float>(x)); }
  T draw(double magnitude) { return T(static_cast<float>(magnitude * random_.normal())); }

  void make(text_case<T, KV>& c) {
    const int d = options_.head_dim, n_kv_heads = options_.n_kv_heads;
    const int n_heads = n_kv_heads * options_.group;
    c.n_past = static_cast<int>(random_.below(options_.most_past + 1));
    c.n_tokens = 1 + static_cast<int>(random_.below(options_.most_tokens));
    const int n = c.n_past + c.n_tokens;

    std::vector<std::uint8_t> flags;
    while (static_cast<int>(flags.size()) < n) {
      const index_t words = random_.below(8) == 0 ? random_.below(80) : random_.below(30);
      for (index_t i = 0; i < words; ++i) flags.push_back(0);
      for (index_t i = 0; i < options_.n_gist; ++i) flags.push_back(1);
    }
    flags.resize(static_cast<std::size_t>(n));
    const index_t n_sink = random_.below(2);

    // Keys and values by position, as a cache keeps them; it has them in parts.
    const index_t n_all = index_t{n} * n_kv_heads;
    std::vector<T> drawn_k, drawn_v;
    for (index_t i = 0; i < n_all * d; ++i) {
      drawn_k.push_back(draw(1.0));
      drawn_v.push_back(draw(1.0));
    }
    const index_t width = row_width<KV>(d);
    const auto stored = [&](const std::vector<T>& x) {
      std::vector<KV> all(static_cast<std::size_t>(n_all * width));
      for (index_t i = 0; i < n_all; ++i) encode_row(x.data() + i * d, d, all.data() + i * width);
      return all;
    };
    const std::vector<KV> k = stored(drawn_k), v = stored(drawn_v);
    // Rows of q8 lie end to end.
    const auto pad = [&] { return random_.below(2) * (std::is_same_v<KV, q8> ? 0 : 8); };
    cache::row_ledger ledger({options_.n_gist, options_.recent, n_sink, 0});
    std::vector<cache::row_ledger::placement> places;
    std::int32_t base = 0;
    for (int i = 0; i < n; ++i) {
      if (i == c.n_past) base = ledger.live_begin();
      places.push_back(ledger.append(flags[static_cast<std::size_t>(i)] != 0));
    }
    const auto n_anchors = static_cast<std::int32_t>(ledger.anchors().size());
    std::int32_t known = 0;  // Anchors of the past, of which some may be a shared prefix.
    for (int i = 0; i < c.n_past; ++i) known += places[static_cast<std::size_t>(i)].anchor >= 0;
    const auto n_shared = static_cast<std::int32_t>(random_.below(known + 1));
    c.n_rows[shared_part] = options_.prefix ? n_shared : 0;
    c.n_rows[own_part] = n_anchors - c.n_rows[shared_part];
    c.n_rows[local_part] = ledger.local_end() - base;
    // A cache may have room, or rows of later tokens, behind what the queries see; anchors of a
    // prefix are seen before those behind it, and are exact.
    c.n_unseen[own_part] = c.n_unseen[local_part] = unseen_rows;
    for (int p = 0; p < n_parts; ++p) {
      c.k[p] = rows<KV>(n_kv_heads, c.n_rows[p] + c.n_unseen[p], width, pad());
      c.v[p] = rows<KV>(n_kv_heads, c.n_rows[p] + c.n_unseen[p], width, pad());
    }
    const auto store = [&](int part, index_t row, int position) {
      for (int h = 0; h < n_kv_heads; ++h) {
        const auto from = static_cast<std::ptrdiff_t>((position * n_kv_heads + h) * width);
        std::copy_n(k.begin() + from, width, c.k[part].row(h, row));
        std::copy_n(v.begin() + from, width, c.v[part].row(h, row));
      }
    };
    for (int i = 0; i < n; ++i) {
      const auto& place = places[static_cast<std::size_t>(i)];
      if (place.anchor >= c.n_rows[shared_part]) {
        store(own_part, place.anchor - c.n_rows[shared_part], i);
      } else if (place.anchor >= 0) {
        store(shared_part, place.anchor, i);
      }
      if (place.local >= base) store(local_part, place.local - base, i);
    }
    c.q = rows<T>(c.n_tokens, n_heads, d, 8 * random_.below(2));
    c.o = rows<T>(c.n_tokens, n_heads, d, 2 * random_.below(3));
    c.lse = rows<T>(c.n_tokens, n_heads, 1, random_.below(2));
    for (int i = 0; i < c.n_tokens; ++i) {
      visible_spans s = places[static_cast<std::size_t>(c.n_past + i)].spans;
      s.local_begin -= base;
      s.local_end -= base;
      c.spans.push_back(s);
      for (int h = 0; h < n_heads; ++h) {
        for (int e = 0; e < d; ++e) c.q.row(i, h)[e] = draw(options_.magnitude);
      }
    }
    expect(c, flags, n_sink, k, v);
  }

  void expect(text_case<T, KV>& c, const std::vector<std::uint8_t>& flags, index_t n_sink,
              const std::vector<KV>& stored_k, const std::vector<KV>& stored_v) {
    const int d = options_.head_dim, n_kv_heads = options_.n_kv_heads, group = options_.group;
    // Half the distance of the smallest numbers; those of bf16 are as small as those of float.
    constexpr double least_step = std::is_same_v<T, f16> ? 0x1p-25 : 0x1p-126;
    const auto numbers = [&](const std::vector<KV>& x) {
      const index_t width = row_width<KV>(d), n = static_cast<index_t>(x.size()) / width;
      std::vector<float> all(static_cast<std::size_t>(n * d));
      for (index_t i = 0; i < n; ++i) decode_row(x.data() + i * width, d, all.data() + i * d);
      return all;
    };
    const std::vector<float> k = numbers(stored_k), v = numbers(stored_v);
    const sentence_structure text(flags, {options_.n_gist, options_.recent, n_sink});
    const sentence_mask sees{text.sentence_of().data(), text.is_gist().data(), nullptr,
                             options_.recent, n_sink};
    const auto row_of = [&](const std::vector<float>& x, int position, int h) {
      return x.data() + (index_t{position} * n_kv_heads + h) * d;
    };
    for (int i = 0; i < c.n_tokens; ++i) {
      for (int h = 0; h < n_kv_heads * group; ++h) {
        std::vector<int> keys;
        std::vector<double> scores;
        std::vector<double> roundings;  // Of float in a score, in units of its epsilon.
        double top = -std::numeric_limits<double>::infinity();
        for (int j = 0; j <= c.n_past + i; ++j) {
          if (!sees(c.n_past + i, j)) continue;
          double s = 0.0;
          double squares = 0.0;
          for (int e = 0; e < d; ++e) {
            const double term = number(c.q.row(i, h)[e]) * double{row_of(k, j, h / group)[e]};
            s += term;
            squares += term * term;
          }
          keys.push_back(j);
          scores.push_back(s * scale());
          // d sums of that many terms, whose errors are as likely up as down; e^s then turns an
          // error of s into a relative one.
          roundings.push_back(std::sqrt(d * squares) * scale() + std::abs(scores.back()));
          top = std::max(top, scores.back());
        }
        double sum = 0.0;
        for (double& s : scores) sum += s = std::exp(s - top);
        double of_scores = 0.0;  // What float's roundings of the scores do to the log of their sum.
        std::vector<double> o(static_cast<std::size_t>(d));
        std::vector<double> budget(static_cast<std::size_t>(d), least_step);
        for (std::size_t x = 0; x < keys.size(); ++x) {
          if (std::is_same_v<T, float>) of_scores += scores[x] / sum * roundings[x];
          for (int e = 0; e < d; ++e) {
            const double value = double{row_of(v, keys[x], h / group)[e]};
            const double weight = scores[x] / sum;
            o[static_cast<std::size_t>(e)] += weight * value;
            // In 16 bits the roundings of float do not show.
            const double of_score = std::is_same_v<T, float>
                                        ? roundings[x] + std::abs(top) + std::sqrt(keys.size())
                                        : 0.0;
            // Weights of q8 are rounded as multiples of 1/64 of the scale, for up to 127 levels.
            const double steps = std::is_same_v<KV, q8> ? 127.0 / 64 : std::abs(value);
            budget[static_cast<std::size_t>(e)] +=
                (1.1 + of_score) * epsilon_of<T>() * weight * std::abs(value) + least_step * steps;
          }
        }
        c.want_o.insert(c.want_o.end(), o.begin(), o.end());
        c.budget_o.insert(c.budget_o.end(), budget.begin(), budget.end());
        const double lse = top + std::log(sum);
        c.want_lse.push_back(lse);
        c.budget_lse.push_back(epsilon_of<T>() * (std::max(1.0, std::abs(lse)) + of_scores));
      }
    }
  }

  layout_options options_;
  random_generator random_;
  std::deque<text_case<T, KV>> cases_;
};

/// Layout number `i` of a sweep over what the kernels' shapes depend on.
inline layout_options sweep(int i, int head_dim) {
  const auto pick = [](const auto& from, int at) {
    return from[static_cast<std::size_t>(at) % std::size(from)];
  };
  constexpr index_t gists[] = {1, 4, 8};
  constexpr index_t recent[] = {0, 3};
  constexpr int groups[] = {3, 1, 4, 2, 8, 16, 5};
  constexpr int sequences[] = {1, 1, 2, 3, 1};
  return {.n_gist = pick(gists, i),
          .recent = pick(recent, i / 3),
          .group = pick(groups, i),
          .n_kv_heads = 1 + i % 2,
          .head_dim = head_dim,
          .n_sequences = pick(sequences, i),
          .magnitude = i % 4 == 3 ? 25.0 : 1.0,
          .lse = i % 5 != 4,
          .seed = 1000 + static_cast<std::uint64_t>(i)};
}

/// A layout with several tiles, sequences and heads, and scores that need their greatest
/// subtracted: what planted errors have to show on.
inline layout_options hard_layout(int most_tokens, int most_past, int head_dim = 64) {
  return {.n_gist = 4,
          .recent = 0,
          .group = 3,
          .n_kv_heads = 2,
          .head_dim = head_dim,
          .n_sequences = 2,
          .most_tokens = most_tokens,
          .most_past = most_past,
          .magnitude = 25.0,
          .lse = true,
          .seed = 3};
}

/// Layouts [begin, end) by the kernel that `run(texts, options, i)` runs: within `budget` of what
/// rounding explains, something to see in the results, and nothing written beside them.
template <class T, class KV = T, class OptionsOf, class Run>
void check_layouts(int begin, int end, double budget, OptionsOf&& options_of, Run&& run) {
  double worst = 0.0;
  for (int i = begin; i < end; ++i) {
    const layout_options options = options_of(i);
    CAPTURE(options.text());
    layout<T, KV> texts(options);
    run(texts, options, i);
    const auto found = texts.compare();
    CHECK(found.worst <= budget);
    CHECK(found.largest > 0.1);
    CHECK(found.guards_hold);
    worst = std::max(worst, found.worst);
  }
  MESSAGE("greatest error: ", worst, " of what rounding explains, budget ", budget);
}

}  // namespace gistkv::emulation
