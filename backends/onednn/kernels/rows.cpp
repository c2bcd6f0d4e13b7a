// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/backends/onednn/cpu.hpp>

GISTKV_ONEDNN_DEFINE_ROW_KERNELS
