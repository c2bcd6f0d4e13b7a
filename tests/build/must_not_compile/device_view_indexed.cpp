// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Host code cannot touch an element of device memory.
// expect: no match for call to|no matching function for call to|does not provide a call operator
#include <gistkv/core/tensor_view.hpp>

float first(gistkv::matrix_view<float> v) { return v(0, 0); }
float first(gistkv::matrix_view<float, gistkv::device_space> v) { return v(0, 0); }  // rejected
