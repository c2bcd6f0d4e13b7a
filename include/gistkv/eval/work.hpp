// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::eval {

/// What one row costs in the linear maps of a model, and what one forward pass reads of them at
/// least: divided by what a machine can do, the floors of prefill and decode.
struct linear_work {
  double flops = 0;  ///< 2 a weight; without the head, which only the last row of a text needs.
  double bytes = 0;  ///< With the head, as the file stores them.

  explicit linear_work(const model::host_model& m) {
    const auto add = [this](const host_matrix& w, bool head) {
      if (!head) flops += 2 * static_cast<double>(w.rows * w.cols);
      bytes += static_cast<double>(row_bytes(w.type, w.cols)) * static_cast<double>(w.rows);
    };
    for (const model::host_block& b : m.blocks) {
      for (const auto* l : {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
        add(l->weight, false);
      }
    }
    add(m.config.tied_head ? m.token_embedding : m.head.weight, true);
  }
};

}  // namespace gistkv::eval
