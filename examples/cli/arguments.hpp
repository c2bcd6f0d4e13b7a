// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

// The parser of the command line takes seconds to compile, so verbs define their options through
// the functions below and only three files include it.
namespace CLI {
class App;
}

namespace gistkv::cli {

/// Adds a verb to the program.
CLI::App& add_verb(CLI::App& app, const std::string& name, const std::string& what);

/// What the verb does once its options are read.
void on_run(CLI::App& verb, std::function<void()> run);

/// Adds an option, or a positional argument if the name has no dash. T: std::string, index_t, int,
/// std::uint64_t, double, std::optional of the first two, and std::vector<std::string>, an option
/// that may be repeated.
/// @param type  what the help calls the value; empty: by T
template <class T>
void add_option(CLI::App& verb, const std::string& names, T& value, const std::string& what,
                const std::string& type = {});

/// The same, and the verb does not run without it.
template <class T>
void add_required(CLI::App& verb, const std::string& names, T& value, const std::string& what,
                  const std::string& type = {});

/// Adds an option without a value, or with one that may be left out: "--compare{full}". T: bool,
/// std::string.
template <class T>
void add_flag(CLI::App& verb, const std::string& names, T& value, const std::string& what);

/// The last lines of a verb's help: a command that works.
void add_example(CLI::App& verb, const std::string& command);

/// What the parser would take apart, "[a,b]" as a list, is wrapped before and unwrapped behind it.
std::string wrapped(const std::string& argument);
std::string unwrapped(const std::string& argument);

/// "a,b" as a and b.
std::vector<std::string> between_commas(const std::string& list);

}  // namespace gistkv::cli
