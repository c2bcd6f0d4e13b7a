// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv::io {

/// The pair of adjacent tokens left, right becomes result; smaller ranks go first.
struct bpe_merge {
  token_t left = 0;
  token_t right = 0;
  token_t result = 0;
};

/// Byte-pair merging of one word: while any adjacent pair of tokens has a merge, the pair with the
/// smallest rank, the leftmost of several, is replaced (Sennrich, Haddow, Birch 2016, algorithm 1).
/// Immutable, so any number of threads may merge at once, each with its own scratch.
class bpe {
 public:
  /// Buffers of a caller, reused from word to word.
  struct scratch {
    struct candidate {
      std::int32_t rank;
      std::size_t left;  ///< Index of the left symbol.
      token_t left_token;
      token_t right_token;

      bool operator>(const candidate& other) const {
        return std::tie(rank, left) > std::tie(other.rank, other.left);
      }
    };
    std::vector<token_t> tokens;
    std::vector<std::size_t> next;
    std::vector<std::size_t> previous;
    std::vector<candidate> heap;
  };

  /// @param byte_tokens token of each byte value, -1 if the vocabulary has none.
  /// @param merges by rank; each pair once.
  /// @param unk the token for missing bytes, -1 to drop them: the bytes around one then are
  ///        neighbours and may merge. @param fuse_unk adjacent ones become one.
  bpe(const std::array<token_t, 256>& byte_tokens, std::span<const bpe_merge> merges, token_t unk,
      bool fuse_unk)
      : byte_tokens_(byte_tokens),
        unk_(unk),
        fuse_unk_(fuse_unk),
        slots_(std::bit_ceil(2 * merges.size() + 2)),
        shift_(64 - std::countr_zero(slots_.size())) {
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const bpe_merge& m = merges[rank];
      std::size_t at = home(key(m.left, m.right));
      while (slots_[at].key != no_key) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {key(m.left, m.right), static_cast<std::int32_t>(rank), m.result};
    }
  }

  /// Appends the tokens of `word` to `out`. n log n in the length of the word.
  void merge(std::string_view word, std::vector<token_t>& out, scratch& s) const {
    s.tokens.clear();
    for (const char c : word) {
      const token_t token = byte_tokens_[static_cast<unsigned char>(c)];
      if (token >= 0) {
        s.tokens.push_back(token);
      } else if (unk_ >= 0 && !(fuse_unk_ && !s.tokens.empty() && s.tokens.back() == unk_)) {
        s.tokens.push_back(unk_);
      }
    }
    if (s.tokens.size() <= short_word) {
      merge_short(s.tokens);
    } else {
      merge_long(s);
    }
    out.insert(out.end(), s.tokens.begin(), s.tokens.end());
  }

 private:
  static constexpr std::uint64_t no_key = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::int32_t no_rank = std::numeric_limits<std::int32_t>::max();
  /// Up to here rescanning all pairs after each merge is faster than keeping a heap.
  static constexpr std::size_t short_word = 48;

  struct slot {
    std::uint64_t key = no_key;
    std::int32_t rank = no_rank;
    token_t result = 0;
  };

  static std::uint64_t key(token_t left, token_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t home(std::uint64_t k) const {
    k ^= k >> 29;
    return static_cast<std::size_t>((k * 0x9E3779B97F4A7C15ULL) >> shift_);
  }
  /// The merge of a pair; rank no_rank if it has none.
  const slot& find(token_t left, token_t right) const {
    const std::uint64_t k = key(left, right);
    std::size_t at = home(k);
    while (slots_[at].key != k && slots_[at].key != no_key) at = (at + 1) & (slots_.size() - 1);
    return slots_[at];
  }

  void merge_short(std::vector<token_t>& tokens) const {
    std::array<const slot*, short_word> pairs;
    std::size_t n = tokens.size();
    if (n < 2) return;
    for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = &find(tokens[i], tokens[i + 1]);
    while (n > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < n; ++i) {
        if (pairs[i]->rank < pairs[best]->rank) best = i;
      }
      if (pairs[best]->rank == no_rank) break;
      tokens[best] = pairs[best]->result;
      --n;
      for (std::size_t i = best + 1; i < n; ++i) {
        tokens[i] = tokens[i + 1];
        pairs[i - 1] = pairs[i];
      }
      if (best > 0) pairs[best - 1] = &find(tokens[best - 1], tokens[best]);
      if (best + 1 < n) pairs[best] = &find(tokens[best], tokens[best + 1]);
    }
    tokens.resize(n);
  }

  /// Symbols form a linked list, pairs wait in a heap. A pair whose tokens have changed since it
  /// was put there is passed over when it comes up.
  void merge_long(scratch& s) const {
    const std::size_t n = s.tokens.size();
    constexpr token_t gone = -1;
    s.next.resize(n);
    s.previous.resize(n);
    s.heap.clear();
    const auto offer = [&](std::size_t left, std::size_t right) {
      const slot& m = find(s.tokens[left], s.tokens[right]);
      if (m.rank != no_rank) s.heap.push_back({m.rank, left, s.tokens[left], s.tokens[right]});
      return m.rank != no_rank;
    };
    const auto offer_later = [&](std::size_t left, std::size_t right) {
      if (offer(left, right)) std::push_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    };
    for (std::size_t i = 0; i < n; ++i) {
      s.previous[i] = i == 0 ? 0 : i - 1;
      s.next[i] = i + 1;
      if (i + 1 < n) offer(i, i + 1);
    }
    std::make_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    while (!s.heap.empty()) {
      std::pop_heap(s.heap.begin(), s.heap.end(), std::greater<>());
      const scratch::candidate c = s.heap.back();
      s.heap.pop_back();
      const std::size_t right = s.next[c.left];
      if (s.tokens[c.left] != c.left_token || right >= n || s.tokens[right] != c.right_token) {
        continue;
      }
      s.tokens[c.left] = find(c.left_token, c.right_token).result;
      s.tokens[right] = gone;
      s.next[c.left] = s.next[right];
      if (s.next[right] < n) {
        s.previous[s.next[right]] = c.left;
        offer_later(c.left, s.next[right]);
      }
      if (c.left > 0) offer_later(s.previous[c.left], c.left);
    }
    std::erase(s.tokens, gone);
  }

  std::array<token_t, 256> byte_tokens_;
  token_t unk_;
  bool fuse_unk_;
  std::vector<slot> slots_;
  int shift_;
};

}  // namespace gistkv::io
