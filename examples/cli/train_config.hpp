// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <cli/output.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/train/parameters.hpp>
#include <gistkv/train/schedule.hpp>
#include <gistkv/train/trainable_model.hpp>

namespace gistkv::cli {

/// Where the texts come from.
struct data_config {
  std::vector<std::string> files;  ///< .txt, .jsonl, or either with .zst behind it.
  std::string field = "text";      ///< Of a line of JSONL.
  std::string segmenter = "paper";
  bool markers = false;    ///< The text of a control token, <|im_end|> say, is that token.
  index_t max_tokens = 0;  ///< Stop reading behind so many; 0: read all.
  std::string cache;       ///< Token file to make or to use; empty: in the output folder.
};

/// One stage; the defaults are the published ones of its number (arXiv 2511.08128).
struct stage_config {
  train::trained_weights trained = train::trained_weights::none;
  index_t sequence = 4096;  ///< Rows of a training window.
  index_t batch = 64;       ///< Windows a step.
  index_t micro_batch = 1;  ///< Windows in memory at a time.
  train::schedule rate;     ///< Of everything, but
  double gist_rate = 0;     ///< the peak of gist rows, if another one; 0: the same.
  double clip = 1.0;
  bool gist_targets = true;  ///< false: `flexible`, gists are no targets.
};

struct train_config {
  std::string model;
  std::string output;
  std::string adapter;  ///< To go on from; empty: gist rows are drawn.
  std::uint64_t seed = 1;
  sentence_rule rule{4, 0, 1};
  data_config data;
  train::lora_options lora;
  train::optimiser_options optimiser;
  double distillation = 0;  ///< Share of the teacher in the loss.
  bool recompute = false;
  bool narrow_model = false;  ///< A model that was trained as a whole is written as bf16.
  index_t save_every = 100;
  index_t validate_every = 100;
  index_t validation_windows = 16;
  std::vector<stage_config> stages;
  json source;  ///< As it was read.
};

/// @throws format_error naming file and field; a key that is not known is an error.
train_config read_train_config(const std::string& path);

}  // namespace gistkv::cli
