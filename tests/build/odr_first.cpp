// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <every_header_twice.hpp>

void throw_from_second();

// The linker has found one definition of everything; an exception's type is one across both units.
int main() {
  try {
    throw_from_second();
  } catch (const gistkv::shape_error&) {
    return 0;
  }
  return 1;
}
