// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::io {

/// The text of a small file. @throws file_error; format_error beyond `limit` bytes.
inline std::string read_text_file(const std::filesystem::path& path,
                                  std::size_t limit = 64U << 20) {
  const mapped_file file(path);
  if (file.bytes().size() > limit) {
    throw format_error(path.string() + ": has " + std::to_string(file.bytes().size()) +
                       " bytes, expected at most " + std::to_string(limit));
  }
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// A checkpoint in one safetensors file or in several that an index names.
class safetensors_set {
 public:
  /// Opens
  /// - a file NAME.safetensors,
  /// - an index NAME.safetensors.index.json: every file it names, which must lie beside it and hold
  ///   exactly the tensors it says,
  /// - a directory: its model.safetensors, else its model.safetensors.index.json, else its only
  ///   *.safetensors file.
  /// @throws file_error, format_error naming file and tensor.
  static safetensors_set open(const std::filesystem::path& path) {
    safetensors_set set;
    std::error_code
        ignored;  // What is not there or out of reach fails with its reason when opened.
    if (std::filesystem::is_directory(path, ignored)) {
      set.open_directory(path);
    } else if (path.filename().string().ends_with(".index.json")) {
      set.open_index(path);
    } else {
      set.add(path);
    }
    return set;
  }

  const std::vector<safetensors_file>& files() const { return files_; }
  const std::vector<std::filesystem::path>& paths() const { return paths_; }

 private:
  safetensors_set() = default;

  void add(const std::filesystem::path& path) {
    files_.push_back(safetensors_file::open(path));
    paths_.push_back(path);
  }

  void open_directory(const std::filesystem::path& directory) {
    std::error_code failure;
    if (const auto path = directory / "model.safetensors"; std::filesystem::exists(path, failure)) {
      return add(path);
    }
    if (const auto path = directory / "model.safetensors.index.json";
        std::filesystem::exists(path, failure)) {
      return open_index(path);
    }
    std::vector<std::filesystem::path> found;
    failure.clear();
    for (std::filesystem::directory_iterator at(directory, failure), end; !failure && at != end;
         at.increment(failure)) {
      if (at->path().extension() == ".safetensors") found.push_back(at->path());
    }
    if (failure) throw file_error(directory, "list the directory", failure);
    if (found.size() != 1) {
      throw format_error(directory.string() + ": holds " + std::to_string(found.size()) +
                         " *.safetensors files, expected model.safetensors, "
                         "model.safetensors.index.json or exactly one");
    }
    add(found.front());
  }

  void open_index(const std::filesystem::path& path) {
    const nlohmann::json json = parse_strict_json(read_text_file(path), path.string());
    const nlohmann::json* map = json_fields(json, path.string()).find("weight_map");
    if (map == nullptr) {
      throw format_error(path.string() + ": field 'weight_map' is missing");
    }
    const json_fields fields(*map, path.string() + ": 'weight_map'");
    std::map<std::string, std::set<std::string, std::less<>>> tensors_of;
    for (const auto& [tensor, file] : map->items()) {
      tensors_of[fields.get<std::string>(tensor)].insert(tensor);
    }
    for (const auto& [file, tensors] : tensors_of) {
      // An index must not lead out of its directory.
      if (file.find('/') != std::string::npos || !file.ends_with(".safetensors")) {
        throw format_error(fields.where() + " names the file " + quote(file) +
                           ", expected the plain name of a *.safetensors file");
      }
      add(path.parent_path() / file);
      for (const safetensors_tensor& tensor : files_.back().tensors()) {
        if (!tensors.contains(tensor.name)) {
          throw format_error(files_.back().name() + ": tensor " + quote(tensor.name) +
                             " is not there in the index " + path.filename().string());
        }
      }
      for (const std::string& tensor : tensors) files_.back().tensor(tensor);
    }
  }

  std::vector<safetensors_file> files_;
  std::vector<std::filesystem::path> paths_;
};

}  // namespace gistkv::io
