// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <cli/output.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/gmsa/trainable.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/train/parameters.hpp>
#include <gistkv/train/schedule.hpp>
#include <gistkv/train/trainable_model.hpp>

namespace gistkv::cli {

/// Where the texts come from.
struct data_config {
  std::vector<std::string> files;  ///< .txt, .jsonl, or either with .zst behind it.
  std::string field = "text";      ///< Of a line of JSONL.
  /// Documents take turns; the adapter brings the first along.
  std::vector<std::string> segmenters = {"paper"};
  bool markers = false;    ///< The text of a control token, <|im_end|> say, is that token.
  index_t max_tokens = 0;  ///< Stop reading behind so many; 0: read all.
  std::string cache;       ///< Token file to make or to use; empty: in the output folder.
};

/// The steps of a stage, whatever they train.
struct step_config {
  index_t sequence = 4096;  ///< Rows of a training sample at most.
  index_t batch = 64;       ///< Samples a step.
  index_t micro_batch = 1;  ///< Samples in memory at a time.
  train::schedule rate;
  double clip = 1.0;
};

/// One stage; the defaults are the published ones of its number (arXiv 2511.08128).
struct stage_config : step_config {
  train::trained_weights trained = train::trained_weights::none;
  /// The peak of gist rows, and of LoRA on all rows beside that on gist rows, if another one than
  /// that of `rate`.
  std::optional<double> gist_rate = {};
  std::optional<double> all_rows_rate = {};
  bool gist_targets = true;  ///< false: `flexible`, gists are no targets.
};

/// What all runs have.
struct run_config {
  std::string model;
  std::string output;
  std::string adapter;  ///< To go on from; empty: what is trained begins anew.
  std::uint64_t seed = 1;
  data_config data;
  train::lora_options lora;
  train::optimiser_options optimiser;
  index_t save_every = 100;
  index_t validate_every = 100;
  index_t validation_windows = 16;
  json source;  ///< As it was read.
};

struct train_config : run_config {
  sentence_rule rule{4, 0, 1};
  /// Values of `rule.recent` of which documents take turns; the adapter brings the first along.
  std::vector<index_t> recent = {0};
  /// Beside `lora` on gist rows: one on all rows that learns along.
  std::optional<train::lora_options> lora_on_all_rows;
  train::lesson lesson;  ///< `distillation` and `hidden_distillation`.
  bool recompute = false;
  bool narrow_model = false;  ///< A model that was trained as a whole is written as bf16.
  std::vector<stage_config> stages;
};

/// How the alignment of gmsa begins.
enum class alignment_start { decoder, random, none };

/// A stage of gmsa; the defaults are the published ones (arXiv 2505.12215).
struct soft_stage_config : step_config {
  gmsa::stage trained = gmsa::stage::restoring;
};

struct soft_config : run_config {
  std::vector<index_t> rates = {4};  ///< One is drawn for each sample.
  gmsa::compressor_shape shape;
  alignment_start alignment = alignment_start::decoder;
  gmsa::merging merging = gmsa::merging::mean;
  bool slots = false;                  ///< In place of merging.
  train::lora_options decoder_lora;    ///< `lora` is that of the encoder.
  std::vector<std::string> questions;  ///< Files with questions, contexts and answers.
  std::string format;                  ///< Of these; empty: by their names.
  std::string restore = "Restate the aforementioned Text.";
  std::string instruction = "\nAnswer with a short phrase from the text.";  ///< Behind a question.
  weight_type adapter_type = weight_type::f32;
  std::vector<soft_stage_config> stages;
};

/// @throws format_error naming file and field; a key that is not known is an error.
train_config read_train_config(const std::string& path);
soft_config read_soft_config(const std::string& path);

}  // namespace gistkv::cli
