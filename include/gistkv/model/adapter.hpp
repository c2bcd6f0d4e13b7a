// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>

namespace gistkv::model {

/// What training adds to a model: rows of the gist tokens and, if it went deeper, low-rank changes
/// of weights. A map W of a gist's row is then W + LoRA on all rows + LoRA on gist rows, that of
/// every other row W + LoRA on all rows.
struct adapter {
  gist_rows gists;
  lora on_all_rows;   ///< If there is any, a text without gists is read by another model.
  lora on_gist_rows;  ///< Leaves all other rows as they are.
};

/// The model with the LoRA on all rows merged, where that shall not stand beside the weights
/// (transformer::adapt); `on_gist_rows` always does. @throws as merge_lora and
/// validate(lora).
inline host_model merged(const host_model& base, const adapter& a) {
  validate(a.on_all_rows);
  host_model m = base;
  merge_lora(m, a.on_all_rows.factors, a.on_all_rows.alpha);
  return m;
}

}  // namespace gistkv::model
