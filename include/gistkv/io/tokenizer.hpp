// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/added_tokens.hpp>
#include <gistkv/io/bpe.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/nfc.hpp>
#include <gistkv/io/pretokenizer.hpp>
#include <gistkv/io/tokenizer_data.hpp>
#include <gistkv/io/vocabulary.hpp>

namespace gistkv::io {

/// Whether the text of a control token in the input becomes that token.
enum class special_tokens : std::uint8_t { parse, as_text };

/// Byte-level BPE: text <-> token ids. Immutable and cheap to copy (copies share the vocabulary),
/// so any number of threads may use one object.
///
/// Input may be any bytes; those that are no UTF-8 are encoded as they stand. A byte whose token
/// the vocabulary lacks vanishes before merging, so that its neighbours may merge, unless the file
/// says that unk stands for it (`tokenizer_data::unk_for_missing`). Nothing is put before or behind
/// the text: whoever builds a sequence asks `add_bos()`.
class tokenizer {
 public:
  /// @throws format_error naming the file and entry: sizes that differ, a token twice, a merge of
  /// or into an unknown token, an id outside the vocabulary, an unknown pre-tokenizer.
  explicit tokenizer(tokenizer_data data)
      : base_(std::make_shared<const vocabulary>(std::move(data))),
        added_(std::make_shared<const added>(*base_, std::vector<std::string>{})) {}

  /// Appends the ids of `text` to `out`. Time n log n at most, linear in practice.
  void encode(std::string_view text, std::vector<token_t>& out,
              special_tokens mode = special_tokens::parse) const {
    word_cache cache(text.size());
    bpe::scratch scratch;
    std::deque<std::string> rewritten;  // Keeps its elements in place: the cache points into them.
    const auto encode_stretch = [&](std::string_view stretch) {
      if (base_->compose() && !is_composed(stretch)) {
        stretch = rewritten.emplace_back(compose(stretch));
      }
      if (base_->add_prefix_space() && !stretch.starts_with(' ')) {
        stretch = rewritten.emplace_back(' ' + std::string(stretch));
      }
      split_words(base_->rule(), stretch, [&](std::string_view word) {
        if (cache.recall(word, out)) return;
        const std::size_t begin = out.size();
        base_->encode_word(word, out, scratch);
        cache.remember(word, begin, out.size());
      });
    };
    added_->finder.split(text, mode == special_tokens::parse, encode_stretch,
                         [&](const added_token& t) { out.push_back(t.token); });
  }

  std::vector<token_t> encode(std::string_view text,
                              special_tokens mode = special_tokens::parse) const {
    std::vector<token_t> out;
    encode(text, out, mode);
    return out;
  }

  /// The bytes of the tokens, special ones as their text; need not be valid UTF-8
  /// (utf8_stream.hpp).
  /// @throws argument_error for an id outside the vocabulary.
  std::string decode(std::span<const token_t> tokens) const {
    std::string out;
    for (const token_t t : tokens) out += piece(t);
    return out;
  }

  /// Bytes of one token. Valid as long as any copy of the tokenizer. @throws argument_error.
  std::string_view piece(token_t token) const {
    check(token);
    return token < base_->size() ? base_->piece(token) : added_->names[added_index(token)];
  }

  /// The token whose bytes are `piece`; of two, the special one.
  std::optional<token_t> find(std::string_view piece) const {
    for (std::size_t i = 0; i < added_->names.size(); ++i) {
      if (added_->names[i] == piece) return base_->size() + static_cast<token_t>(i);
    }
    return base_->find(piece);
  }

  /// Whether the token is a control token, gists included. @throws argument_error.
  bool is_special(token_t token) const {
    check(token);
    return token >= base_->size() || base_->kind(token) == token_kind::control;
  }

  index_t vocab_size() const { return base_->size() + static_cast<index_t>(added_->names.size()); }
  std::optional<token_t> bos() const { return base_->bos(); }
  std::optional<token_t> eos() const { return base_->eos(); }
  std::optional<token_t> unk() const { return base_->unk(); }
  std::optional<token_t> pad() const { return base_->pad(); }
  bool add_bos() const { return base_->add_bos(); }
  /// Tokens that end an answer: eos, those that the file names, and control tokens with the names
  /// that the common model families use. Ascending.
  std::span<const token_t> end_tokens() const { return base_->end_tokens(); }
  /// Jinja text of the file; empty if it has none.
  const std::string& chat_template() const { return base_->chat_template(); }

  /// A copy with further control tokens at vocab_size(), vocab_size() + 1, ...
  /// @throws argument_error for an empty name or one that is a token already.
  tokenizer with_special(std::span<const std::string> names) const {
    std::vector<std::string> all = added_->names;
    for (const std::string& name : names) {
      if (name.empty()) throw argument_error("tokenizer: the name of a special token is empty");
      if (find(name) || std::find(all.begin(), all.end(), name) != all.end()) {
        throw argument_error("tokenizer: " + quote(name) + " is a token already");
      }
      all.push_back(name);
    }
    tokenizer copy = *this;
    copy.added_ = std::make_shared<const added>(*base_, std::move(all));
    return copy;
  }

  /// A copy with the gist tokens `<end_of_sentence_0>` .. `<end_of_sentence_{n-1}>` behind the
  /// vocabulary, in order. @throws argument_error for n < 1 or if they exist already.
  tokenizer with_gists(index_t n) const {
    if (n < 1) {
      throw argument_error("tokenizer: number of gists is " + std::to_string(n) +
                           ", expected at least 1");
    }
    std::vector<std::string> names;
    for (index_t i = 0; i < n; ++i) names.push_back("<end_of_sentence_" + std::to_string(i) + ">");
    return with_special(names);
  }

  /// Hash of all that decides which ids a text gets. Equal for equal tokenizers from different
  /// files; not for cryptography.
  std::uint64_t fingerprint() const {
    xxh64 h(base_->fingerprint());
    for (const std::string& name : added_->names) h.update(name).update(std::string_view("\0", 1));
    return h.digest();
  }

 private:
  /// Tokens added to the vocabulary of the file, and the finder that knows both.
  struct added {
    added(const vocabulary& base, std::vector<std::string> all)
        : finder(base.finder()), names(std::move(all)) {
      for (std::size_t i = 0; i < names.size(); ++i) {
        finder.insert({names[i], base.size() + static_cast<token_t>(i), true, false, false});
      }
    }
    added(const added&) = delete;  // The finder points into the names.
    added& operator=(const added&) = delete;

    added_token_finder finder;
    std::vector<std::string> names;
  };

  /// Remembers where in the output the tokens of recent words lie. Lives for one call, hence needs
  /// no lock, and is not worth its memory for a short text.
  class word_cache {
   public:
    explicit word_cache(std::size_t text_size) : entries_(text_size < 4096 ? 0 : 4096) {}

    bool recall(std::string_view word, std::vector<token_t>& out) {
      if (entries_.empty() || word.size() > longest) return false;
      const entry& e = entries_[slot(word)];
      if (e.word != word) return false;
      for (std::size_t i = e.begin; i < e.end; ++i) out.push_back(out[i]);
      return true;
    }
    void remember(std::string_view word, std::size_t begin, std::size_t end) {
      if (!entries_.empty() && word.size() <= longest) entries_[slot(word)] = {word, begin, end};
    }

   private:
    static constexpr std::size_t longest = 32;
    struct entry {
      std::string_view word;
      std::size_t begin = 0;
      std::size_t end = 0;
    };
    std::size_t slot(std::string_view word) const {
      std::uint64_t h = 0xCBF29CE484222325ULL;  // FNV-1a
      for (const char c : word) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
      return static_cast<std::size_t>(h >> 20) % entries_.size();
    }
    std::vector<entry> entries_;
  };

  void check(token_t token) const {
    if (token < 0 || token >= vocab_size()) {
      throw argument_error("tokenizer: token " + std::to_string(token) +
                           " is outside the vocabulary of " + std::to_string(vocab_size()));
    }
  }
  std::size_t added_index(token_t token) const {
    return static_cast<std::size_t>(token - base_->size());
  }

  std::shared_ptr<const vocabulary> base_;
  std::shared_ptr<const added> added_;
};

}  // namespace gistkv::io
