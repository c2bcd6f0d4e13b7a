// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/model/gist_rows.hpp>

namespace gistkv::model {

/// The change of one weight: W becomes W + (alpha / rank) B A.
struct low_rank {
  index_t layer = 0;
  std::string target;  ///< query, key, value, output, gate, up or down
  index_t rank = 0;
  index_t rows = 0;      ///< Outputs of W.
  index_t cols = 0;      ///< Inputs of W.
  std::vector<float> a;  ///< [rank, cols]
  std::vector<float> b;  ///< [rows, rank]
};

/// What training adds to a model: rows of the gist tokens and, if it went deeper, low-rank changes
/// of weights, for all rows of a sequence or for those of gist tokens only.
struct adapter {
  gist_rows gists;
  double alpha = 0.0;
  bool gist_rows_only = false;
  std::vector<low_rank> factors;
};

}  // namespace gistkv::model
