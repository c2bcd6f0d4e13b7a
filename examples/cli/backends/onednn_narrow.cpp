// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>
#include <string>

#include <cli/backends/onednn.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/onednn.hpp>

namespace gistkv::cli {

namespace {

template <class KV>
backend_ptr make(int n_threads) {
  using onednn = backends::onednn<float, bf16>;
  auto be = std::make_shared<onednn>(backends::onednn_options{.n_threads = n_threads});
  const std::string instruction_set(to_string(be->isa()));
  return std::make_shared<typed_backend<onednn, KV>>(std::move(be), instruction_set);
}

}  // namespace

backend_ptr make_onednn_f16(int n_threads) { return make<f16>(n_threads); }
backend_ptr make_onednn_q8(int n_threads) { return make<q8>(n_threads); }

}  // namespace gistkv::cli
