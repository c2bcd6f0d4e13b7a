// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>

namespace gistkv::model {

/// What training adds to a model: rows of the gist tokens and, if it went deeper, low-rank changes
/// of weights, for all rows of a sequence or for those of gist tokens only.
struct adapter {
  gist_rows gists;
  double alpha = 0.0;
  bool gist_rows_only = false;
  std::vector<low_rank> factors;

  /// Whether a text without gists is read by another model than the base.
  bool changes_all_rows() const { return !factors.empty() && !gist_rows_only; }
};

/// The model with its LoRA merged: for LoRA on all rows, where it shall not stand beside the
/// weights (transformer::adapt).
/// @throws argument_error for an adapter whose LoRA is for gist rows only; as merge_lora.
inline host_model merged(const host_model& base, const adapter& a) {
  if (a.gist_rows_only && !a.factors.empty()) {
    throw argument_error("merge: the adapter's LoRA is for gist rows only");
  }
  host_model m = base;
  merge_lora(m, a.factors, a.alpha);
  return m;
}

}  // namespace gistkv::model
