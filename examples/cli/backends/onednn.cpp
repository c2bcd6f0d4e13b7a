// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/onednn.hpp>

#include <cli/trainer.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/onednn.hpp>

namespace gistkv::cli {

built_backend this_backend() {
  using backends::onednn;
  static constexpr cache_kind kinds[] = {{"bf16", make_onednn_f32_bf16},
                                         {"f32", make_onednn_f32},
                                         {"f16", make_onednn_f16},
                                         {"q8", make_onednn_q8}};
  static constexpr checked_form forms[] = {{"f32", "bf16", check_onednn_f32_bf16},
                                           {"f32", "f32", check_onednn_f32},
                                           {"bf16", "bf16", check_onednn_bf16}};
  return {onednn<float>::name,
          kinds,
          forms,
          support_table<onednn<float>, onednn<float, bf16>, onednn<bf16>>,
          train_onednn,
          train_soft_onednn};
}

}  // namespace gistkv::cli
