// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <llama.h>

namespace llama_gist {

/// Keeps llama.cpp, which has one log for all, from writing to stderr; its errors are kept.
class quiet {
 public:
  quiet() {
    llama_log_set(
        [](ggml_log_level level, const char* text, void* self) {
          if (level == GGML_LOG_LEVEL_ERROR) static_cast<quiet*>(self)->errors_ += text;
        },
        this);
  }
  ~quiet() { llama_log_set(nullptr, nullptr); }
  quiet(const quiet&) = delete;
  quiet& operator=(const quiet&) = delete;

  const std::string& errors() const { return errors_; }

 private:
  std::string errors_;
};

}  // namespace llama_gist
