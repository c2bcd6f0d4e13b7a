// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/types.hpp>

namespace gistkv::test {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline nlohmann::json read_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(read_file(path));
}

/// Little-endian numbers of a golden file.
template <class T>
std::vector<T> read_numbers(const std::string& bytes, std::size_t offset, std::size_t count) {
  if (offset + count * sizeof(T) > bytes.size()) throw std::runtime_error("golden file too short");
  std::vector<T> numbers(count);
  std::memcpy(numbers.data(), bytes.data() + offset, count * sizeof(T));
  return numbers;
}

/// A manifest X.json and its arrays in X.bin: name, dtype (f32, i32), shape, offset.
class golden_arrays {
 public:
  explicit golden_arrays(const std::filesystem::path& manifest) : json(read_json(manifest)) {
    bytes_ = read_file(manifest.parent_path() / json.at("file").get<std::string>());
    for (const auto& a : json.at("arrays")) entries_[a.at("name")] = a;
  }

  nlohmann::json json;

  std::vector<index_t> shape(const std::string& name) const {
    return entry(name).at("shape").get<std::vector<index_t>>();
  }
  std::vector<float> floats(const std::string& name) const { return numbers<float>(name, "f32"); }
  std::vector<std::int32_t> ints(const std::string& name) const {
    return numbers<std::int32_t>(name, "i32");
  }

 private:
  const nlohmann::json& entry(const std::string& name) const {
    const auto at = entries_.find(name);
    if (at == entries_.end()) throw std::runtime_error("no golden array " + name);
    return at->second;
  }
  template <class T>
  std::vector<T> numbers(const std::string& name, const char* dtype) const {
    const auto& e = entry(name);
    if (e.at("dtype") != dtype) throw std::runtime_error(name + " is no " + dtype);
    std::size_t n = 1;
    for (const std::size_t d : e.at("shape")) n *= d;
    return read_numbers<T>(bytes_, e.at("offset").get<std::size_t>(), n);
  }

  std::string bytes_;
  std::map<std::string, nlohmann::json> entries_;
};

}  // namespace gistkv::test
