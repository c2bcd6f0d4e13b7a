// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv::io {
class tokenizer;
}

namespace gistkv::cli {

/// What generation needs of a tokenizer. Rows of the embedding table behind the vocabulary, which
/// fill it up to a round number, have no bytes; text never becomes a control token.
struct codec {
  const io::tokenizer* tokens = nullptr;

  std::string_view piece(token_t t) const;
  void encode(std::string_view text, std::vector<token_t>& out) const;
};

}  // namespace gistkv::cli
