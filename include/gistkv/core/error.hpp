// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace gistkv {

/// Base of everything that the library throws on its own account.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Extents that do not fit together. The message names operation, argument and both numbers.
class shape_error : public error {
 public:
  using error::error;
};

/// A file or byte sequence that is not what its format promises. The message names the file and the
/// field or tensor, what was found and what would be right.
class format_error : public error {
 public:
  using error::error;
};

/// A value outside an operation's domain: an option, an empty prompt, a position past the context.
class argument_error : public error {
 public:
  using error::error;
};

/// A failure of a device, driver or library below a backend. Carries expression and code.
class backend_error : public error {
 public:
  using error::error;
};

}  // namespace gistkv
