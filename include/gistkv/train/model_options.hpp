// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include <gistkv/mask/sentence.hpp>
#include <gistkv/train/trainable_lora.hpp>

namespace gistkv::train {

/// What is trained; the rows of the gist tokens always are.
enum class trained_weights {
  none,  ///< Gist rows only: all else stays as it is, to the bit.
  lora,
  all
};

struct model_options {
  trained_weights trained = trained_weights::none;
  lora_options lora;  ///< Of `lora`.
  sentence_rule rule;
  /// Keep the input of each block and compute its inside again in the backward pass: about a third
  /// more work, and a tenth of the memory for activations.
  bool recompute = false;
  /// Of `lora` on gist rows only: a second one on all rows that learns along with it. Its
  /// parameters want another name.
  std::optional<lora_options> lora_on_all_rows = {};
};

}  // namespace gistkv::train
