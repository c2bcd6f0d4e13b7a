// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>

namespace gistkv::cli {

/// Many texts to compress, one file each.
struct corpus {
  std::string file;    ///< .jsonl or .jsonl.zst
  std::string field;   ///< Of each line, with the text.
  std::string folder;  ///< Gets 000001.gkv for the first document and so on.
};

/// Compresses every document and reports the totals of all ranks. Ranks take turns, and a file
/// says nothing of time and memory, so that it does not depend on the number of ranks.
/// @throws argument_error naming the document for one that is empty or too long; as save_context.
json compress_corpus(const corpus& from, const engine& e, const method_settings& settings,
                     bool chat, std::uint64_t seed);

}  // namespace gistkv::cli
