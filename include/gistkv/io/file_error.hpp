// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include <gistkv/core/error.hpp>

namespace gistkv::io {

/// The operating system refused an operation on a file. The message names the path, the operation
/// and the system's own words.
class file_error : public error {
 public:
  file_error(const std::filesystem::path& path, const std::string& operation, std::error_code code)
      : error(path.string() + ": cannot " + operation + ": " + code.message()),
        path_(path),
        code_(code) {}

  const std::filesystem::path& path() const { return path_; }
  std::error_code code() const { return code_; }

 private:
  std::filesystem::path path_;
  std::error_code code_;
};

}  // namespace gistkv::io
