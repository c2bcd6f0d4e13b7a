// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <every_header_twice.hpp>

void throw_from_second();

void throw_from_second() { throw gistkv::shape_error("second"); }
