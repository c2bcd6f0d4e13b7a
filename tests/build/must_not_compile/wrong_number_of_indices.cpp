// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The number of indices is the rank.
// expect: no match for call to|no matching function for call to
#include <gistkv/core/tensor_view.hpp>

float at(gistkv::matrix_view<float> v) { return v(1, 2); }
float at_rank_3(gistkv::matrix_view<float> v) { return v(1, 2, 3); }  // rejected
