// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/soft.hpp>
#include <gistkv/eval/policy.hpp>
#include <gistkv/eval/reading.hpp>
#include <gistkv/eval/statistics.hpp>
#include <gistkv/text/gist_layout.hpp>

/// What the tasks of `gistkv eval` share. Each task reads its samples, measures every method on
/// each of them, one record a sample, and turns the records into rows with intervals.

namespace gistkv::cli {

struct eval_options {
  std::string task;
  std::string data;
  std::string format;  ///< Of questions; empty: by the name of the file.
  index_t limit = 10;
  index_t length = 2048;
  index_t windows = 1;  ///< Texts of `length` tokens a document (ppl, compression).
  model_options model;
  method_options method;  ///< Its method is a list.
  std::uint64_t seed = 0;
  std::string results;     ///< File of records, to resume from; empty: none.
  std::string compressor;  ///< Adapter of gmsa, where --adapter is that of gists; empty: untrained.
  std::string ceilings;    ///< File of measured peaks, to state floors beside times; empty: none.
  index_t buckets = 0;
  index_t shots = 5;
  index_t depths = 3;
  index_t keys = 1;
  index_t lines = 0;  ///< Of needle, among the sentences of `data`; 0: as many as fit.
  std::string values = "number";
  index_t context_parts = 1;
  std::string prompt = "Restate the aforementioned Text.";  ///< Of restore.
  index_t max_tokens = 0;                                   ///< 0: as the task has it.
  bool keep_lines = false;
  bool shuffle_labels = false;
  bool shift = false;
  bool json = false;
};

/// Where the gists of a method are.
enum class placing { none, sentences, spread };

struct eval_method {
  std::string name;
  eval::policy policy;
  cli::placing placing = cli::placing::none;
  bool base = false;  ///< Reads with the model as it was before LoRA on all rows.
  bool soft = false;  ///< Reads soft tokens; nothing of the policy says how.

  bool saves() const { return name != "full" && !base; }
  /// Whether its memory is meant to be that of sag.
  bool fits() const { return saves() && policy.eviction != eval::eviction::sentences; }
};

/// What a run holds: the model, the methods, and where records go.
class evaluation {
 public:
  explicit evaluation(const eval_options& o);

  const eval_options& options() const { return options_; }
  const cli::engine& engine() const { return engine_; }
  const std::vector<eval_method>& methods() const { return methods_; }
  /// What a method reads with.
  const resident_model& model_of(const eval_method& m) const {
    if (m.soft) return *soft_->decoder;
    return m.base && base_ ? *base_ : *engine_.model;
  }
  const method_settings& sag() const { return sag_; }
  /// Of gmsa; there is one if it is among the methods.
  const soft_method& soft() const { return *soft_; }
  /// For writing behind a text that a method has read.
  method_settings writing_settings(const eval_method& m) const;
  std::size_t bytes_per_row() const { return bytes_per_row_; }

  /// The record of a sample under a method, from the file of records if it is there, else measured
  /// and added to it. `what` names the sample with everything that its result depends on.
  json record(const eval_method& m, const std::string& what, const std::function<json()>& measure);

  json settings() const;
  json machine() const;

 private:
  eval_options options_;
  method_settings sag_;
  std::vector<eval_method> methods_;
  cli::engine engine_;
  std::unique_ptr<const resident_model> base_;  ///< Null where it is the same as the engine's.
  std::unique_ptr<const soft_method> soft_;     ///< Null unless a method is gmsa.
  std::size_t bytes_per_row_;
  std::map<std::string, json> known_;
};

/// The methods that --method names. @throws usage_error.
std::vector<eval_method> parse_methods(const eval_options& o, const method_settings& sag);

/// A text under all methods, before any budget.
struct laid_out {
  text::gist_layout plain;
  text::gist_layout gisted;  ///< With gists at its sentence ends, as sag reads it.
};
/// The user-turn opening of the chat template in front, if asked for, and the text.
laid_out lay_out(const evaluation& run, std::string_view text, bool chat);

/// Rows of a layout over which memory is averaged.
using counted_rows = std::function<std::vector<std::uint8_t>(const text::gist_layout&)>;

/// A full cache.
inline constexpr eval::policy everything{
    .rule = {.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0}};

/// A text under one method, its budget fitted: the mean rows that it reads over the counted rows
/// are those of sag (or of --budget BYTES), as near as whole rows allow.
struct planned_text {
  const resident_model* model = nullptr;
  text::gist_layout rows;
  eval::policy policy;
  double mean_rows = 0;
  double wanted_rows = 0;  ///< What mean_rows was fitted to.
  std::vector<std::uint8_t> marked;
};
planned_text plan(const evaluation& run, const eval_method& m, const laid_out& text,
                  const counted_rows& counted);

/// Counts the last rows of a context: what a question finds.
std::vector<std::uint8_t> last_rows(const text::gist_layout& rows);

/// Reads a planned text into a new cache. @throws argument_error naming the sample if it is longer
/// than the model's context.
cache_ptr read_planned(const evaluation& run, const planned_text& p, const std::string& name,
                       std::span<const token_t> targets = {},
                       std::vector<eval::token_score>* scores = nullptr);

/// What a decoder of soft tokens holds of a cache: everything.
inline constexpr cache::cache_rule soft_rule{.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0};

/// Compresses tokens and lets the decoder read what they became, in a new cache.
/// @throws argument_error naming the sample for fewer tokens than the rate, or more than the model
/// was trained for.
cache_ptr read_soft(const evaluation& run, std::span<const token_t> ids, const std::string& name);

/// Operations of that: encoder on all tokens, alignment and decoder on the soft ones.
double soft_flops(const evaluation& run, index_t n_tokens);

/// One figure of a method.
json figure(const std::string& metric, const std::string& method, const eval::estimate& value,
            std::size_t n);

/// Prints the figures, as a table or as {"rows": [...]}.
void report(const evaluation& run, std::vector<json> figures);

// Samples.

struct document {
  std::string name;
  std::string text;
  std::size_t begin = 0;  ///< Where `text` begins in what the name stands for, in bytes.
};
/// *.txt of a directory, one text, or the field "text" of JSONL; files may be packed (.zst). Lines
/// of .txt are joined to paragraphs unless `keep_lines`. @throws io::file_error, format_error
/// naming file and line.
std::vector<document> read_documents(const std::string& path, bool keep_lines);

struct question {
  std::string name;
  std::string context;
  std::string text;
  std::vector<std::string> answers;
};
/// Names as messages have them: "a, b, c".
std::string listed(std::span<const std::string_view> names);
/// What read_questions knows.
inline constexpr std::array<std::string_view, 5> question_formats = {"squad", "hotpotqa", "nq",
                                                                     "kv", "plain"};
/// Questions of SQuAD, HotpotQA, NaturalQuestions, JSON key-value records, or of any JSONL with
/// context, question (or input, query) and answers (or answer, outputs).
std::vector<question> read_questions(const std::string& path, const std::string& format);

struct choice_question {
  std::string name;
  std::string subject;
  std::string text;
  std::vector<std::string> choices;
  std::size_t answer = 0;
};
/// Multiple choice: MMLU, ARC, HellaSwag and WinoGrande style lines.
std::vector<choice_question> read_choices(const std::string& path);

/// Non-empty lines of a JSONL file with their numbers. @throws format_error naming the line.
void for_each_json_line(const std::string& path,
                        const std::function<void(const json&, const std::string& where)>& take);

// Tasks.

void eval_perplexity(evaluation& run);
void eval_compression(evaluation& run);
void eval_speed(evaluation& run);
void eval_needle(evaluation& run);
void eval_questions(evaluation& run, bool key_values);
void eval_choices(evaluation& run, bool mmlu);
void eval_restoring(evaluation& run);

}  // namespace gistkv::cli
