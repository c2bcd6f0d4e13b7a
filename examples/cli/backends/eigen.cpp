// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/eigen.hpp>

#include <cli/trainer.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/eigen.hpp>

namespace gistkv::cli {

built_backend this_backend() {
  using backends::eigen;
  static constexpr cache_kind kinds[] = {
      {"f32", make_eigen_f32}, {"f16", make_eigen_f16}, {"q8", make_eigen_q8}};
  static constexpr checked_form forms[] = {{"f32", "f32", check_eigen_f32}};
  return {eigen<float>::name, kinds,           forms, support_table<eigen<double>, eigen<float>>,
          train_eigen,        train_soft_eigen};
}

}  // namespace gistkv::cli
