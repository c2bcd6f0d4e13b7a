// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/core/tensor_view.hpp>

#include <type_traits>

// Nothing of a third party comes with gistkv::core.
#if __has_include(<Eigen/Core>)
#error "gistkv::core brings Eigen along"
#endif

static_assert(std::is_trivially_copyable_v<gistkv::matrix_view<float>>);
