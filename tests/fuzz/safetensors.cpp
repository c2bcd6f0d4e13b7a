// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// libFuzzer target: any bytes as a safetensors file and as a config.json. Build with
// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude
// tests/fuzz/safetensors.cpp

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include <gistkv/core/error.hpp>
#include <gistkv/io/model_config_json.hpp>
#include <gistkv/io/safetensors.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = gistkv::io;
  try {
    const auto file = io::safetensors_file::parse(std::as_bytes(std::span(data, size)), "fuzz");
    std::size_t n_bytes = 0;
    for (const io::safetensors_tensor& tensor : file.tensors()) n_bytes += tensor.data.size();
    if (n_bytes > size) std::abort();  // Tensors may not overlap.
  } catch (const gistkv::format_error&) {
    // The one way out for a file that is not what it should be.
  }
  try {
    io::parse_model_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const gistkv::format_error&) {
    // As above.
  }
  return 0;
}
