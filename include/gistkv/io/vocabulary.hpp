// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/added_tokens.hpp>
#include <gistkv/io/bpe.hpp>
#include <gistkv/io/byte_alphabet.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/pretokenizer.hpp>
#include <gistkv/io/tokenizer_data.hpp>

namespace gistkv::io {

/// A checked byte-level BPE vocabulary: what `tokenizer` shares between its copies. Immutable.
class vocabulary {
 public:
  /// @throws format_error, see tokenizer::tokenizer.
  explicit vocabulary(tokenizer_data data) : data_(std::move(data)) {
    check_sizes();
    rule_ = pretokenizer_by_name(data_.pre);
    if (data_.add_prefix_space && rule_ != pretokenizer::gpt2) {
      fail("add_prefix_space is set, which only pre-tokenizer gpt-2 defines, not " +
           quote(data_.pre));
    }
    const auto ids = ids_by_text();
    const std::vector<bpe_merge> merges = read_merges(ids);
    read_pieces();
    read_added_tokens();
    read_end_tokens(ids);
    read_words(ids, merges);
    hash(merges);
    // From here on only the pieces are needed; a large vocabulary need not be held twice.
    data_.tokens = {};
    data_.merges = {};
  }
  vocabulary(const vocabulary&) = delete;  // Maps and finder point into pieces_.
  vocabulary& operator=(const vocabulary&) = delete;

  token_t size() const { return static_cast<token_t>(starts_.size()) - 1; }
  token_kind kind(token_t token) const { return data_.kinds[static_cast<std::size_t>(token)]; }
  /// Bytes of a token inside the vocabulary.
  std::string_view piece(token_t token) const {
    const auto t = static_cast<std::size_t>(token);
    return std::string_view(pieces_).substr(starts_[t], starts_[t + 1] - starts_[t]);
  }
  std::optional<token_t> find(std::string_view piece) const {
    const auto found = by_piece_.find(piece);
    return found == by_piece_.end() ? std::nullopt : std::optional(found->second);
  }

  /// Appends the tokens of one word.
  void encode_word(std::string_view word, std::vector<token_t>& out, bpe::scratch& scratch) const {
    if (data_.ignore_merges) {
      if (const auto t = find(word); t && kind(*t) == token_kind::normal) {
        out.push_back(*t);
        return;
      }
    }
    merges_->merge(word, out, scratch);
  }

  const added_token_finder& finder() const { return finder_; }
  pretokenizer rule() const { return rule_; }
  bool add_prefix_space() const { return data_.add_prefix_space; }
  bool compose() const { return data_.compose; }
  std::optional<token_t> bos() const { return data_.bos; }
  std::optional<token_t> eos() const { return data_.eos; }
  std::optional<token_t> unk() const { return data_.unk; }
  std::optional<token_t> pad() const { return data_.pad; }
  bool add_bos() const { return data_.add_bos; }
  std::span<const token_t> end_tokens() const { return data_.end_tokens; }
  const std::string& chat_template() const { return data_.chat_template; }
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  using id_map = std::unordered_map<std::string_view, token_t>;

  [[noreturn]] void fail(const std::string& what) const {
    throw format_error((data_.source.empty() ? "tokenizer" : data_.source) + ": " + what);
  }

  void check_sizes() {
    const std::size_t n = data_.tokens.size();
    if (n == 0) fail("the vocabulary is empty");
    if (n >= static_cast<std::size_t>(std::numeric_limits<token_t>::max() / 2)) {
      fail("the vocabulary has " + std::to_string(n) + " tokens, more than ids can name");
    }
    if (data_.kinds.empty()) data_.kinds.assign(n, token_kind::normal);
    if (data_.kinds.size() != n) {
      fail(std::to_string(data_.kinds.size()) + " token types for " + std::to_string(n) +
           " tokens");
    }
    const auto check = [&](const char* name, token_t id) {
      if (id < 0 || static_cast<std::size_t>(id) >= n) {
        fail(std::string(name) + " token " + std::to_string(id) + " is outside the vocabulary of " +
             std::to_string(n));
      }
    };
    if (data_.bos) check("bos", *data_.bos);
    if (data_.eos) check("eos", *data_.eos);
    if (data_.unk) check("unknown", *data_.unk);
    if (data_.pad) check("padding", *data_.pad);
    for (const token_t t : data_.end_tokens) check("end", t);
    for (const token_t t : data_.strip_left) check("strip_left", t);
    for (const token_t t : data_.strip_right) check("strip_right", t);
    if (data_.add_bos && !data_.bos) fail("a bos token is asked for, but none is named");
    if (data_.unk_for_missing && !data_.unk) fail("unk is to replace bytes, but none is named");
  }

  id_map ids_by_text() const {
    id_map ids;
    ids.reserve(data_.tokens.size());
    for (std::size_t i = 0; i < data_.tokens.size(); ++i) {
      const auto [at, fresh] = ids.emplace(data_.tokens[i], static_cast<token_t>(i));
      if (!fresh) {
        fail("token " + quote(data_.tokens[i]) + " is in the vocabulary twice, as " +
             std::to_string(at->second) + " and " + std::to_string(i));
      }
    }
    return ids;
  }

  std::vector<bpe_merge> read_merges(const id_map& ids) const {
    std::vector<bpe_merge> merges;
    merges.reserve(data_.merges.size());
    std::string whole;
    const auto id = [&](std::string_view token, const std::string& merge) {
      const auto found = ids.find(token);
      if (found == ids.end()) {
        fail("merge " + std::to_string(merges.size()) + " " + quote(merge) + " needs token " +
             quote(token) + ", which is not in the vocabulary");
      }
      return found->second;
    };
    for (const std::string& merge : data_.merges) {
      const std::size_t gap = merge.find(' ', 1);
      if (gap == std::string::npos || gap + 1 == merge.size()) {
        fail("merge " + std::to_string(merges.size()) + " " + quote(merge) +
             " is not two tokens with a space between them");
      }
      const auto left = std::string_view(merge).substr(0, gap);
      const auto right = std::string_view(merge).substr(gap + 1);
      whole.assign(left).append(right);
      merges.push_back({id(left, merge), id(right, merge), id(whole, merge)});
    }
    check_merges_differ(merges);
    return merges;
  }

  void check_merges_differ(const std::vector<bpe_merge>& merges) const {
    std::vector<std::size_t> order(merges.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto pair = [&](std::size_t i) { return std::pair(merges[i].left, merges[i].right); };
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return pair(a) < pair(b); });
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (pair(order[i - 1]) == pair(order[i])) {
        fail("merge " + quote(data_.merges[order[i]]) + " is listed twice");
      }
    }
  }

  bool is_literal(std::size_t i) const {
    return data_.kinds[i] != token_kind::normal && data_.kinds[i] != token_kind::byte;
  }

  /// Lays out the bytes of all tokens and maps them back. A token of the byte alphabet and a
  /// literal one may have the same bytes: special tokens are mapped first, then words, then the
  /// rest.
  void read_pieces() {
    std::vector<std::uint8_t> turn;
    starts_.push_back(0);
    for (std::size_t i = 0; i < data_.tokens.size(); ++i) {
      const auto bytes = is_literal(i) ? std::nullopt : from_byte_alphabet(data_.tokens[i]);
      pieces_ += bytes ? *bytes : data_.tokens[i];
      starts_.push_back(pieces_.size());
      const bool special =
          data_.kinds[i] == token_kind::control || data_.kinds[i] == token_kind::user_defined;
      turn.push_back(special ? 0 : bytes ? 1 : 2);
    }
    by_piece_.reserve(data_.tokens.size());
    for (std::uint8_t now = 0; now < 3; ++now) {
      for (std::size_t i = 0; i < turn.size(); ++i) {
        const auto t = static_cast<token_t>(i);
        if (turn[i] == now) by_piece_.emplace(piece(t), t);
      }
    }
  }

  void read_added_tokens() {
    const auto has = [](const std::vector<token_t>& all, token_t t) {
      return std::find(all.begin(), all.end(), t) != all.end();
    };
    for (token_t t = 0; t < size(); ++t) {
      const bool control = kind(t) == token_kind::control;
      if (!control && kind(t) != token_kind::user_defined) continue;
      if (piece(t).empty()) fail("special token " + std::to_string(t) + " has no text");
      finder_.insert({piece(t), t, control, has(data_.strip_left, t), has(data_.strip_right, t)});
    }
  }

  void read_end_tokens(const id_map& ids) {
    if (data_.eos) data_.end_tokens.push_back(*data_.eos);
    for (const char* name : {"<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
                             "<|eom_id|>", "<|end|>", "<end_of_turn>", "</s>"}) {
      const auto found = ids.find(name);
      if (found != ids.end() && kind(found->second) == token_kind::control) {
        data_.end_tokens.push_back(found->second);
      }
    }
    auto& ends = data_.end_tokens;
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  }

  void read_words(const id_map& ids, const std::vector<bpe_merge>& merges) {
    std::array<token_t, 256> byte_tokens;
    for (std::size_t b = 0; b < byte_tokens.size(); ++b) {
      const char byte = static_cast<char>(b);
      const auto found = ids.find(to_byte_alphabet({&byte, 1}));
      byte_tokens[b] = found == ids.end() ? -1 : found->second;
    }
    merges_.emplace(byte_tokens, merges, data_.unk_for_missing ? *data_.unk : -1, data_.fuse_unk);
  }

  void hash(const std::vector<bpe_merge>& merges) {
    xxh64 h;
    const auto add = [&h](std::uint64_t number) {
      std::array<std::byte, 8> bytes;
      for (std::byte& b : bytes) {
        b = static_cast<std::byte>(number & 0xFFU);
        number >>= 8;
      }
      h.update(bytes);
    };
    add(static_cast<std::uint64_t>(rule_));
    for (const bool flag : {data_.add_bos, data_.add_prefix_space, data_.ignore_merges,
                            data_.compose, data_.unk_for_missing, data_.fuse_unk}) {
      add(flag ? 1U : 0U);
    }
    for (const auto& id : {data_.bos, data_.unk_for_missing ? data_.unk : std::nullopt}) {
      add(id ? static_cast<std::uint64_t>(*id) + 1 : 0U);
    }
    for (token_t t = 0; t < size(); ++t) {
      add(piece(t).size());
      h.update(piece(t));
      add(static_cast<std::uint64_t>(kind(t)));
    }
    for (const bpe_merge& m : merges) {
      add(static_cast<std::uint64_t>(m.left));
      add(static_cast<std::uint64_t>(m.right));
    }
    for (const auto* strip : {&data_.strip_left, &data_.strip_right}) {
      for (const token_t t : *strip) add(static_cast<std::uint64_t>(t));
      add(strip->size());
    }
    fingerprint_ = h.digest();
  }

  tokenizer_data data_;
  pretokenizer rule_ = pretokenizer::gpt2;
  std::string pieces_;
  std::vector<std::size_t> starts_;  ///< Token t is bytes [starts_[t], starts_[t + 1]) of pieces_.
  id_map by_piece_;
  added_token_finder finder_;
  std::optional<bpe> merges_;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace gistkv::io
