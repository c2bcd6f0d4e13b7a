// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <support/data.hpp>

namespace gistkv::test {

/// The tokenizer of the model; nothing, and a skip, if the model is absent.
inline std::optional<io::tokenizer> model_tokenizer() {
  if (!require_file(model_path())) return std::nullopt;
  return io::tokenizer(io::read_tokenizer(io::gguf_file::open(model_path())));
}

/// A file of expected results; nothing, and a skip, if it is absent.
inline std::optional<nlohmann::json> sag_golden(const char* name) {
  const auto path = golden_dir() / "sag" / name;
  if (!require_file(path)) return std::nullopt;
  return nlohmann::json::parse(std::ifstream(path));
}

inline std::string from_hex(std::string_view digits) {
  const auto value = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<char>(value(digits[i]) * 16 + value(digits[i + 1])));
  }
  return bytes;
}

}  // namespace gistkv::test
