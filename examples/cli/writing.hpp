// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/reading.hpp>

namespace gistkv::cli {

/// Receives text that may be shown: whole characters.
using text_sink = std::function<void(std::string_view)>;

/// To stdout, or nowhere.
text_sink shown_unless(bool quiet);

struct written {
  model::generation generation;
  std::string stop_reason;  ///< As model::stop_reason, and "context" where the positions ran out.
  std::string shown;        ///< The text as whole characters.
  double seconds_first_token = 0;  ///< From the first token read.
  double seconds = 0;              ///< Of the writing alone.
};

/// Continues the text of a session to one of the model's end tokens, a stop text or the limit.
/// @param seen  text in front, of which a sentence may be open; the segmenter gets it
written write(sequence& s, const engine& e, const method_settings& settings,
              const sampling_options& sampling, const text_sink& sink, std::string_view seen = {});

struct answer {
  std::string question;
  std::string prompt;  ///< Exact string in front of the answer.
  written text;
  double seconds = 0;  ///< From the first token of the question to the last of the answer.
};

/// Puts a question behind a context and writes the answer. The context is used up.
answer ask(const engine& e, context c, const method_settings& settings,
           const sampling_options& sampling, const std::string& question, const text_sink& sink);

json answer_report(const answer& a);

/// Tokens a second of the writing, without the reading in front.
double writing_rate(const written& w);

}  // namespace gistkv::cli
