// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/model_folder.hpp>

#include <system_error>

#include <cli/output.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/model_writer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/io/tokenizer_json_writer.hpp>

namespace gistkv::cli {

namespace {

void write_tokenizer(const std::filesystem::path& to, const std::filesystem::path& made_from) {
  std::error_code ignored;
  const bool is_folder = std::filesystem::is_directory(made_from, ignored);
  if (!is_folder && made_from.extension() != ".safetensors") {
    return io::write_tokenizer_json(to, io::read_tokenizer(io::gguf_file::open(made_from)));
  }
  const auto from = is_folder ? made_from : made_from.parent_path();
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "generation_config.json", "chat_template.jinja"}) {
    if (!std::filesystem::exists(from / name, ignored)) continue;
    io::write_file_atomically(to / name, read_text((from / name).string()));
  }
}

}  // namespace

void write_model_folder(const std::filesystem::path& to, const model::host_model& m,
                        weight_type type, const std::string& made_from) {
  std::error_code failure;
  std::filesystem::create_directories(to, failure);
  if (failure) throw io::file_error(to, "make the folder", failure);
  const signals_held held;
  write_tokenizer(to, made_from);
  io::write_model(to, m, type);
}

}  // namespace gistkv::cli
