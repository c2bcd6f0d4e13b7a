// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::cache {

/// What happens when the anchors outgrow their budget.
enum class budget_policy {
  drop_oldest,  ///< The oldest sentences are erased.
  refuse,       ///< The append throws and changes nothing.
};

struct cache_options {
  cache_rule rule;
  index_t max_anchors = 0;  ///< Most anchor rows held behind a closed sentence; 0: no limit.
  budget_policy on_overflow = budget_policy::drop_oldest;
};

/// @throws argument_error as validate(cache_rule), and for a budget without room for the sink and
/// the gists of one sentence.
inline void validate(const cache_options& options) {
  validate(options.rule);
  if (options.max_anchors == 0) return;
  if (options.max_anchors > 0 && options.max_anchors - options.rule.n_sink >= options.rule.n_gist) {
    return;
  }
  throw argument_error("gist cache: a budget of " + std::to_string(options.max_anchors) +
                       " anchor rows, expected 0 for no limit, or the sink's " +
                       std::to_string(options.rule.n_sink) + " and a sentence's " +
                       std::to_string(options.rule.n_gist) + " or more");
}

namespace detail {

/// @throws argument_error unless a cache is whole: without an append under way.
inline void expect_whole(bool whole, const char* what) {
  if (whole) return;
  throw argument_error("gist cache: " + std::string(what) + " while an append is under way");
}

}  // namespace detail
}  // namespace gistkv::cache
