// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <gistkv/text/gist_layout.hpp>

namespace gistkv::cli {

/// Where in a conversation a cache stands.
enum class stage {
  text,    ///< Inside a user turn, behind a text: a question may follow.
  answer,  ///< Behind an answer, whose turn is not closed.
  empty    ///< Nothing was read.
};

/// A cache and what is known of its past.
struct context {
  cache_ptr cache;
  cli::stage stage = stage::empty;
  bool chat = true;              ///< The model's template surrounds the turns.
  std::string text;              ///< The text as it was given; empty for a conversation.
  std::string read;              ///< The exact string of all that was read.
  json report = json::object();  ///< The fields of compress.
  model::soft_prompt soft = {};  ///< What the decoder is still to read behind the cache.
};

/// Lays out texts and template parts for one engine and method.
class layout_writer {
 public:
  layout_writer(const engine& e, const method_settings& settings);

  void add_template(std::string_view text);  ///< No boundary splits it; markers become tokens.
  void add_verbatim(std::string_view text);  ///< No boundary splits it; markers stay text.
  void add_text(std::string_view text);      ///< With gists at its sentence ends.
  text::gist_layout take() { return builder_.take(); }
  const text::gist_layout& layout() const { return builder_.layout(); }

 private:
  const engine& engine_;
  text::any_segmenter segmenter_;
  text::gist_layout_builder builder_;
};

/// Bos, unless the template brings it, and what stands before the text of a user's turn.
void add_opening(const engine& e, layout_writer& writer, bool chat);

/// Reads a text as the beginning of a user's turn.
/// @param name  of the text, for messages
/// @throws argument_error for an empty text or one that is too long.
context read_context(const engine& e, method_settings settings, std::string_view text,
                     const std::string& name, bool chat, std::uint64_t seed);

/// A new cache for a method. A budget in bytes becomes rows; one that is to match needs a text.
/// @throws usage_error for `match`, or a budget with no room for a row behind the sink.
cache_ptr make_cache(const engine& e, const method_settings& settings);

/// Reads rows into a session, with a bar.
void read_rows(sequence& s, const text::gist_layout& rows, const std::string& label,
               std::vector<index_t>* rows_after = nullptr);

/// Regular rows of the sentence that is open.
index_t open_tokens(const cache::row_ledger& books);

/// Says what keeps a text from being compressed, if anything does.
void note_sentences(const text::gist_layout& rows, const method_settings& settings,
                    const std::string& name);

/// What a program reports of a cache: rows_held, kv_bytes_held and so on.
json cache_report(const sequence_cache& cache);

}  // namespace gistkv::cli
