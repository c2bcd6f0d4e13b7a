// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include <gistkv/core/types.hpp>

namespace gistkv::cli {

/// What is known of one step.
struct train_record {
  index_t stage = 0;   ///< From 1.
  index_t step = 0;    ///< Of the stage, from 1.
  index_t tokens = 0;  ///< Rows read so far, in all stages.
  double loss = 0;
  double validation = -1;  ///< Mean loss of regular tokens that are held out; below 0: not taken.
  double gradient_norm = 0;
  double rate = 0;
  double tokens_per_second = 0;
  double seconds = 0;  ///< Since the stage began or went on.
};

/// log.csv and log.jsonl of a training run: a line a step, on the disk before the next one.
class train_log {
 public:
  /// Begins the files anew, or goes on behind step `step` of stage `stage`: later lines, which a
  /// run wrote behind its last checkpoint, are dropped. @throws io::file_error.
  train_log(const std::filesystem::path& folder, bool go_on, index_t stage, index_t step);

  void add(const train_record& r);

 private:
  std::filesystem::path csv_;
  std::filesystem::path lines_;
};

}  // namespace gistkv::cli
