// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace gistkv::cli {

/// A man page (troff) of the program, from the definitions of its verbs and options.
std::string manual_page(const CLI::App& app, const std::string& version);

/// Completion of verbs and options for bash, from the same definitions: source it.
std::string bash_completion(const CLI::App& app);

}  // namespace gistkv::cli
