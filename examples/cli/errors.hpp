// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace gistkv::cli {

/// The program was called wrongly: exit status 2. What fails at run time throws gistkv::error: 1.
class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "gistkv: note: ..." on stderr, once for the same text, and from rank 0 only.
void note(const std::string& text);

/// A text as one line: what is no printable character becomes a space.
std::string one_line(const std::string& text);

}  // namespace gistkv::cli
