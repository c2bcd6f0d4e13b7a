// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/safetensors.hpp>

namespace gistkv::io {

/// Writes tensors and a map of strings as a safetensors file, atomically (write_file_atomically).
///
/// The data is ordered by element size, largest first, then by name: each tensor is then aligned
/// for its type, and equal content gives equal bytes.
/// @throws shape_error if the bytes of a tensor do not fit its type and extents; argument_error for
/// a name given twice, '__metadata__', or text that is no UTF-8; file_error.
inline void write_safetensors(
    const std::filesystem::path& path, std::span<const safetensors_tensor> tensors,
    const std::map<std::string, std::string, std::less<>>& metadata = {}) {
  static_assert(std::endian::native == std::endian::little, "the format is little-endian");
  std::vector<const safetensors_tensor*> order;
  for (const safetensors_tensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::tuple(element_size(b->type), std::string_view(a->name)) <
           std::tuple(element_size(a->type), std::string_view(b->name));
  });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t end = 0;
  std::string text;
  std::vector<std::span<const std::byte>> pieces(2);  // Of the header; filled in below.
  for (const safetensors_tensor* tensor : order) {
    const std::string prefix = "write_safetensors: tensor " + quote(tensor->name);
    if (tensor->name == "__metadata__" || header.contains(tensor->name)) {
      throw argument_error(prefix + " is given twice or has a reserved name");
    }
    std::uint64_t n_bytes = element_size(tensor->type);
    for (const index_t extent : tensor->extents) {
      const auto most = std::numeric_limits<std::int64_t>::max();
      if (extent < 0 || (extent > 0 && n_bytes > static_cast<std::uint64_t>(most / extent))) {
        throw shape_error(prefix + " has shape " + extents_text(tensor->extents) +
                          ", expected extents of at least 0 whose product fits 63 bits");
      }
      n_bytes *= static_cast<std::uint64_t>(extent);
    }
    if (n_bytes != tensor->data.size()) {
      throw shape_error(prefix + " of shape " + extents_text(tensor->extents) + " and type " +
                        std::string(to_string(tensor->type)) + " has " +
                        std::to_string(tensor->data.size()) + " bytes, expected " +
                        std::to_string(n_bytes));
    }
    header[tensor->name] = {{"dtype", to_string(tensor->type)},
                            {"shape", tensor->extents},
                            {"data_offsets", {end, end + n_bytes}}};
    end += n_bytes;
    pieces.push_back(tensor->data);
  }
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& failure) {
    throw argument_error(path.string() + ": write_safetensors: " + failure.what());
  }
  text.append((8 - text.size() % 8) % 8, ' ');  // The data begins aligned for every type.
  const auto length = std::bit_cast<std::array<std::byte, 8>>(std::uint64_t{text.size()});
  pieces[0] = length;
  pieces[1] = std::as_bytes(std::span(text));
  write_file_atomically(path, pieces);
}

}  // namespace gistkv::io
