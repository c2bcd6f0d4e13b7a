// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <cli/train_config.hpp>
#include <gistkv/io/token_file.hpp>
#include <gistkv/io/tokenizer.hpp>

namespace gistkv::cli {

/// The texts of a config as tokens: from the token file if it is there and was made of the same
/// files under the same rule, else tokenised once and written to it.
/// @throws file_error, format_error; argument_error for texts without a token.
io::token_file training_tokens(const data_config& data, const std::string& path,
                               const io::tokenizer& tokens);

}  // namespace gistkv::cli
