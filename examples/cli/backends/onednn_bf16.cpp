// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/onednn.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/onednn.hpp>

namespace gistkv::cli {

conformance::report check_onednn_bf16(int n_threads, bool quick) {
  backends::onednn<bf16> be({.n_threads = n_threads});
  return run_suite(be, quick);
}

}  // namespace gistkv::cli
