// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A view of T becomes a view of const T, never the other way round.
// expect: could not convert|no viable conversion
#include <gistkv/core/tensor_view.hpp>

using gistkv::vector_view;

vector_view<const float> reading(vector_view<float> v) { return v; }
vector_view<float> writing(vector_view<const float> v) { return v; }  // rejected
