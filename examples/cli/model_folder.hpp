// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include <gistkv/core/types.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::cli {

/// Writes a model into a folder as other programs read it: safetensors of `type`, config.json, and
/// the tokenizer of the model that it was made from: the files of a folder as they are, the
/// vocabulary of a GGUF file as tokenizer.json. @throws io::file_error, argument_error.
void write_model_folder(const std::filesystem::path& to, const model::host_model& m,
                        weight_type type, const std::string& made_from);

}  // namespace gistkv::cli
