// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <memory>
#include <string>

namespace gistkv::cli {

/// A text file piece by piece, unpacked on the way if its name ends in .zst.
class text_source {
 public:
  /// @throws io::file_error; format_error for .zst where the program was built without zstd.
  explicit text_source(const std::string& path);
  ~text_source();
  text_source(const text_source&) = delete;
  text_source& operator=(const text_source&) = delete;

  /// The next bytes; false at the end. @throws io::file_error, format_error.
  bool read(std::string& piece);
  /// The next line without its end; false behind the last.
  bool read_line(std::string& line);

 private:
  struct unpacker;
  bool read_bytes(std::string& piece);

  std::string path_;
  std::FILE* file_ = nullptr;
  std::unique_ptr<unpacker> unpacker_;
  std::string rest_;  ///< Read, but not handed out.
  std::size_t at_ = 0;
};

}  // namespace gistkv::cli
