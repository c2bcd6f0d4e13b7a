// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

/// Where tests find data that is not part of the source, and what happens when it is absent: the
/// case is skipped, and the skip is printed, counted and part of the program's exit status.

namespace gistkv::test {

/// Reasons of all skips so far.
inline std::vector<std::string>& skips() {
  static std::vector<std::string> reasons;
  return reasons;
}

/// Records that a test case, or a part of one, cannot run. The caller then returns.
inline void skip(const std::string& reason) {
  std::cout << "SKIPPED: " << reason << std::endl;
  skips().push_back(reason);
}

/// The main function has set every variable that the environment left open.
inline std::filesystem::path path_from(const char* variable) { return std::getenv(variable); }

/// Texts, questions, tokenizer and segmentation cases; environment variable GISTKV_DATA_DIR.
inline std::filesystem::path data_dir() { return path_from("GISTKV_DATA_DIR"); }

/// Expected results of independent implementations; environment variable GISTKV_GOLDEN_DIR.
inline std::filesystem::path golden_dir() { return path_from("GISTKV_GOLDEN_DIR"); }

/// The root of the source; environment variable GISTKV_SOURCE_DIR. Not from __FILE__, which is
/// relative where a compiler cache serves several copies of the source.
inline std::filesystem::path source_dir() { return path_from("GISTKV_SOURCE_DIR"); }

/// SmolLM2-135M-Instruct as GGUF; environment variable GISTKV_MODEL.
inline std::filesystem::path model_path() { return path_from("GISTKV_MODEL"); }

/// True if the file or directory is there. Else records a skip: the caller returns.
inline bool require_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return true;
  skip(path.string() + " is absent");
  return false;
}

}  // namespace gistkv::test
