// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// libFuzzer target: any bytes as a GGUF file. Build with
// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/gguf.cpp

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = gistkv::io;
  try {
    const auto file = io::gguf_file::parse(std::as_bytes(std::span(data, size)), "fuzz");
    for (const io::gguf_entry& entry : file.metadata()) {
      static_cast<void>(entry.value.as<std::int64_t>());
      static_cast<void>(entry.value.as<double>());
      static_cast<void>(entry.value.as<std::string_view>());
      static_cast<void>(entry.value.as<std::vector<std::string_view>>());
      static_cast<void>(entry.value.as<std::vector<float>>());
      static_cast<void>(entry.value.type_text());
    }
    for (const io::stored_tensor& tensor : file.tensors()) {
      std::vector<float> row(static_cast<std::size_t>(tensor.extents.back()));
      gistkv::dequantize(tensor.type, tensor.data.data(), tensor.extents.back(), row.data());
    }
    io::fingerprint(io::assemble_model(file));
  } catch (const gistkv::format_error&) {
    // The one way out for a file that is not what it should be.
  }
  return 0;
}
