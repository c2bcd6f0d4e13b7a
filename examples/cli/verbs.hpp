// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cli/arguments.hpp>

namespace gistkv::cli {

// Each adds one verb to the program: its options, its help, and what it does.
void add_segment(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_compress(CLI::App& app);
void add_ask(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_train(CLI::App& app);
void add_inspect(CLI::App& app);
void add_verify(CLI::App& app);
void add_eval(CLI::App& app);
void add_plot(CLI::App& app);

}  // namespace gistkv::cli
