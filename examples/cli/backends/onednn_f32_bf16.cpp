// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/onednn.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/onednn.hpp>

namespace gistkv::cli {

backend_ptr make_onednn_f32_bf16(int n_threads) {
  using onednn = backends::onednn<float, bf16>;
  auto be = std::make_shared<onednn>(backends::onednn_options{.n_threads = n_threads});
  const std::string instruction_set(to_string(be->isa()));
  return std::make_shared<typed_backend<onednn, bf16>>(std::move(be), instruction_set);
}

conformance::report check_onednn_f32_bf16(int n_threads, bool quick) {
  backends::onednn<float, bf16> be({.n_threads = n_threads});
  return run_suite(be, quick);
}

}  // namespace gistkv::cli
