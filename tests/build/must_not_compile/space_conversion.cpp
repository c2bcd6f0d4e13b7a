// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A view of one memory space never becomes a view of another.
// expect: could not convert|no viable conversion|no matching function|no known conversion
#include <gistkv/core/tensor_view.hpp>

using gistkv::device_space;
using gistkv::host_space;
using gistkv::vector_view;

vector_view<float, host_space> same(vector_view<float, host_space> v) { return v; }
vector_view<float, host_space> other(vector_view<float, device_space> v) { return v; }  // rejected
