// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/train_data.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <cli/codec.hpp>
#include <cli/errors.hpp>
#include <cli/text_source.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/io/strict_json.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/segmenter_rule.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::cli {

namespace {

/// What a token file was made of.
io::string_map description(const data_config& data, const io::tokenizer& tokens) {
  io::string_map facts;
  for (const std::string& rule : data.segmenters) {
    std::string& all = facts["segmenter"];
    all += (all.empty() ? "" : " ") + rule;
  }
  facts["markers"] = data.markers ? "true" : "false";
  facts["max_tokens"] = std::to_string(data.max_tokens);
  facts["tokenizer"] = hex(tokens.fingerprint());
  facts["field"] = data.field;
  std::string files;
  for (const std::string& file : data.files) {
    std::error_code failure;
    const auto size = std::filesystem::file_size(file, failure);
    if (failure) throw io::file_error(file, "read the size of", failure);
    files += std::filesystem::path(file).filename().string() + " " + std::to_string(size) + "\n";
  }
  facts["files"] = files;
  return facts;
}

bool made_of(const io::token_file& file, const io::string_map& facts) {
  for (const auto& [key, value] : facts) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value) return false;
  }
  return true;
}

}  // namespace

io::token_file training_tokens(const data_config& data, const std::string& path,
                               const io::tokenizer& tokens) {
  const io::string_map facts = description(data, tokens);
  if (std::filesystem::exists(path)) {
    io::token_file file(path);
    if (made_of(file, facts)) return file;
    note(path + " was made of other files or under another rule, and is made anew");
  }
  std::vector<text::any_segmenter> segmenters;
  for (const std::string& rule : data.segmenters) {
    segmenters.push_back(text::parse_segmenter_rule(rule));
  }
  const codec coder{&tokens};
  const auto encode = [&](std::string_view piece, std::vector<token_t>& out) {
    if (data.markers) {
      tokens.encode(piece, out);
    } else {
      coder.encode(piece, out);
    }
  };
  const auto first_gist = static_cast<token_t>(tokens.vocab_size());
  std::vector<std::int32_t> stream;
  progress bar("tokenising", static_cast<index_t>(data.files.size()));
  index_t n_files = 0;
  std::size_t n_documents = 0;
  for (const std::string& name : data.files) {
    for_each_document(name, data.field, [&](const document_text& document) {
      text::any_segmenter fresh = segmenters[n_documents++ % segmenters.size()];
      text::gist_layout_builder builder(1, first_gist, [&coder](token_t t) {
        return static_cast<index_t>(coder.piece(t).size());
      });
      builder.append_text(fresh, document.text, encode);
      builder.finish_text(fresh, encode);
      std::vector<std::uint8_t> learned;
      for (const index_t at : builder.layout().text_begin) {
        learned.push_back(document.learned(static_cast<std::size_t>(at)) ? 1 : 0);
      }
      train::append_document(builder.layout(), learned, stream);
      return data.max_tokens == 0 || static_cast<index_t>(stream.size()) < data.max_tokens;
    });
    bar(++n_files);
    if (data.max_tokens > 0 && static_cast<index_t>(stream.size()) >= data.max_tokens) break;
  }
  if (data.max_tokens > 0 && static_cast<index_t>(stream.size()) > data.max_tokens) {
    stream.resize(static_cast<std::size_t>(data.max_tokens));
  }
  if (stream.size() < 2) throw argument_error("the training texts hold no tokens");
  io::token_file::write(path, stream, facts);
  return io::token_file(path);
}

}  // namespace gistkv::cli
