// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv::io {

/// What a vocabulary entry is. The numbers are those of `tokenizer.ggml.token_type`.
enum class token_kind : std::uint8_t {
  normal = 1,        ///< Made by merging; its text is in the byte alphabet (byte_alphabet.hpp).
  unknown = 2,       ///< Stands for what the vocabulary lacks; never found in text.
  control = 3,       ///< Found in text where special tokens are parsed; its text is literal.
  user_defined = 4,  ///< Found in any text; its text is literal.
  unused = 5,        ///< Fills an id; never found in text.
  byte = 6,          ///< Of SentencePiece vocabularies; here a normal token.
};

/// A byte-level BPE vocabulary as a file states it, before any checking. A reader of a file format
/// fills it; `tokenizer` checks it.
struct tokenizer_data {
  std::string source;               ///< File name, for messages.
  std::vector<std::string> tokens;  ///< The token's id is its index.
  std::vector<token_kind> kinds;    ///< One a token; empty: all normal.
  std::vector<std::string> merges;  ///< "left right", the most urgent one first.
  std::string pre;                  ///< Word splitting rule by its name in GGUF, pretokenizer.hpp.

  std::optional<token_t> bos;
  std::optional<token_t> eos;
  std::optional<token_t> unk;
  std::optional<token_t> pad;
  std::vector<token_t> end_tokens;  ///< Further tokens that end an answer, beside eos.
  bool add_bos = false;             ///< A sequence begins with bos.

  bool add_prefix_space = false;  ///< A stretch of text that does not begin with one gets a space.
  bool ignore_merges = false;     ///< A word that is a token stays one, whatever the merges say.
  bool compose = false;           ///< Text is brought into normalisation form NFC.
  bool unk_for_missing = false;   ///< A byte that is no token becomes unk; otherwise it vanishes.
  bool fuse_unk = false;          ///< Adjacent ones become one unk.
  std::vector<token_t> strip_left;   ///< Special tokens that swallow the white space before them.
  std::vector<token_t> strip_right;  ///< The same for the white space behind them.

  std::string chat_template;  ///< Jinja text; may be empty.
};

}  // namespace gistkv::io
