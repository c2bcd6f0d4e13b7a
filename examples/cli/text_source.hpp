// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gistkv::cli {

/// A text file, or stdin for "-", piece by piece, unpacked on the way if its name ends in .zst.
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

/// All of a text. @throws as text_source.
std::string whole_text(const std::string& path);

/// Whether a file holds a JSON object a line: .jsonl, or that with .zst behind it.
bool is_jsonl(std::string_view path);

/// A text that is to be learned, or one in parts, the first, third and so on of which are there to
/// be read only.
struct document_text {
  std::string text;
  std::vector<std::size_t> ends;  ///< Of the parts; empty: it has none.

  /// Whether the part that byte `at` lies in is to be learned.
  bool learned(std::size_t at) const {
    const auto part = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    return ends.empty() || part % 2 == 1;
  }
};

/// Calls f for every document of a file, until it returns false: a line of JSONL, whose `field` is
/// the text or a list of its parts (empty lines are passed over), or all of another file.
/// @throws as text_source; format_error naming file, line and field.
void for_each_document(const std::string& path, const std::string& field,
                       const std::function<bool(const document_text&)>& f);

}  // namespace gistkv::cli
