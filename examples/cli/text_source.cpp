// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/text_source.hpp>

#include <cerrno>
#include <system_error>
#include <vector>

#include <unistd.h>

#ifdef GISTKV_CLI_ZSTD
#include <zstd.h>
#endif

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::cli {

#ifdef GISTKV_CLI_ZSTD
struct text_source::unpacker {
  unpacker() : stream(ZSTD_createDStream()), in(ZSTD_DStreamInSize()) {}
  ~unpacker() { ZSTD_freeDStream(stream); }
  unpacker(const unpacker&) = delete;
  unpacker& operator=(const unpacker&) = delete;

  ZSTD_DStream* stream;
  std::vector<char> in;
  ZSTD_inBuffer waiting{nullptr, 0, 0};
  bool open = false;  ///< Inside a frame.
};
#else
struct text_source::unpacker {};
#endif

text_source::text_source(const std::string& path) : path_(path == "-" ? "stdin" : path) {
  const bool packed = path.ends_with(".zst");
#ifndef GISTKV_CLI_ZSTD
  if (packed) throw format_error(path + ": this program was built without zstd, unpack the file");
#endif
  file_ = path == "-" ? ::fdopen(::dup(STDIN_FILENO), "rb") : std::fopen(path.c_str(), "rb");
  if (file_ == nullptr) {
    throw io::file_error(path_, "open", std::error_code(errno, std::generic_category()));
  }
  if (packed) unpacker_ = std::make_unique<unpacker>();
}

text_source::~text_source() {
  if (file_ != nullptr) std::fclose(file_);
}

bool text_source::read_bytes(std::string& piece) {
  piece.resize(std::size_t{1} << 20);
  const auto fill = [this](char* to, std::size_t n) {
    const std::size_t got = std::fread(to, 1, n, file_);
    if (got == 0 && std::ferror(file_) != 0) {
      throw io::file_error(path_, "read", std::error_code(errno, std::generic_category()));
    }
    return got;
  };
  if (unpacker_ == nullptr) {
    piece.resize(fill(piece.data(), piece.size()));
    return !piece.empty();
  }
#ifdef GISTKV_CLI_ZSTD
  unpacker& u = *unpacker_;
  ZSTD_outBuffer out{piece.data(), piece.size(), 0};
  while (out.pos == 0) {
    if (u.waiting.pos == u.waiting.size) {
      u.waiting = {u.in.data(), fill(u.in.data(), u.in.size()), 0};
      if (u.waiting.size == 0) {
        if (u.open) throw format_error(path_ + ": zstd: the file ends inside a frame");
        piece.clear();
        return false;
      }
    }
    const std::size_t left = ZSTD_decompressStream(u.stream, &out, &u.waiting);
    if (ZSTD_isError(left) != 0U) {
      throw format_error(path_ + ": zstd: " + ZSTD_getErrorName(left));
    }
    u.open = left != 0;
  }
  piece.resize(out.pos);
#endif
  return true;
}

bool text_source::read(std::string& piece) {
  if (at_ < rest_.size()) {
    piece = rest_.substr(at_);
    at_ = rest_.size();
    return true;
  }
  return read_bytes(piece);
}

bool text_source::read_line(std::string& line) {
  line.clear();
  for (;;) {
    if (at_ == rest_.size()) {
      at_ = 0;
      if (!read_bytes(rest_)) {
        rest_.clear();
        return !line.empty();
      }
    }
    const std::size_t end = rest_.find('\n', at_);
    line.append(rest_, at_, end == std::string::npos ? std::string::npos : end - at_);
    at_ = end == std::string::npos ? rest_.size() : end + 1;
    if (end == std::string::npos) continue;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return true;
  }
}

std::string whole_text(const std::string& path) {
  text_source source(path);
  std::string text;
  for (std::string piece; source.read(piece);) text += piece;
  return text;
}

bool is_jsonl(std::string_view path) {
  if (path.ends_with(".zst")) path.remove_suffix(4);
  return path.ends_with(".jsonl");
}

void for_each_document(const std::string& path, const std::string& field,
                       const std::function<bool(const document_text&)>& f) {
  if (!is_jsonl(path)) {
    f({whole_text(path), {}});
    return;
  }
  text_source source(path);
  std::string line;
  index_t number = 0;
  while (source.read_line(line)) {
    ++number;
    if (line.empty()) continue;
    const std::string where = path + ": line " + std::to_string(number);
    const nlohmann::json parsed = io::parse_strict_json(line, where);
    const io::json_fields fields(parsed, where);
    const nlohmann::json* parts = fields.find(field);
    document_text document;
    if (parts == nullptr || !parts->is_array()) {
      document.text = fields.get<std::string>(field);
    } else {
      for (const nlohmann::json& part : *parts) {
        if (!part.is_string()) fields.fail(field, *parts, "a string or a list of strings");
        document.text += part.get<std::string>();
        document.ends.push_back(document.text.size());
      }
    }
    if (!f(document)) return;
  }
}

}  // namespace gistkv::cli
