// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/arguments.hpp>

#include <cstdint>
#include <optional>
#include <sstream>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <gistkv/core/types.hpp>

namespace gistkv::cli {

namespace {

template <class T>
CLI::Option& option_of(CLI::App& verb, const std::string& names, T& value, const std::string& what,
                       const std::string& type) {
  CLI::Option* option = verb.add_option(names, value, what);
  if (!type.empty()) option->type_name(type);
  // Without this one --stop would take all the words behind it.
  if (std::is_same_v<T, std::vector<std::string>> && names.starts_with('-')) {
    option->expected(1)->take_all();
  }
  return *option;
}

constexpr char wrapper = '\x1f';

}  // namespace

CLI::App& add_verb(CLI::App& app, const std::string& name, const std::string& what) {
  return *app.add_subcommand(name, what);
}

void on_run(CLI::App& verb, std::function<void()> run) { verb.callback(std::move(run)); }

template <class T>
void add_option(CLI::App& verb, const std::string& names, T& value, const std::string& what,
                const std::string& type) {
  option_of(verb, names, value, what, type);
}

template <class T>
void add_required(CLI::App& verb, const std::string& names, T& value, const std::string& what,
                  const std::string& type) {
  option_of(verb, names, value, what, type).required();
}

template <class T>
void add_flag(CLI::App& verb, const std::string& names, T& value, const std::string& what) {
  verb.add_flag(names, value, what);
}

using string = std::string;
template void add_option(CLI::App&, const string&, string&, const string&, const string&);
template void add_option(CLI::App&, const string&, index_t&, const string&, const string&);
template void add_option(CLI::App&, const string&, int&, const string&, const string&);
template void add_option(CLI::App&, const string&, std::uint64_t&, const string&, const string&);
template void add_option(CLI::App&, const string&, double&, const string&, const string&);
template void add_option(CLI::App&, const string&, std::optional<string>&, const string&,
                         const string&);
template void add_option(CLI::App&, const string&, std::optional<index_t>&, const string&,
                         const string&);
template void add_option(CLI::App&, const string&, std::vector<string>&, const string&,
                         const string&);
template void add_required(CLI::App&, const string&, string&, const string&, const string&);
template void add_required(CLI::App&, const string&, std::vector<string>&, const string&,
                           const string&);
template void add_flag(CLI::App&, const string&, bool&, const string&);
template void add_flag(CLI::App&, const string&, string&, const string&);

void add_example(CLI::App& verb, const std::string& command) {
  verb.footer("Example:\n  " + command);
}

std::string wrapped(const std::string& argument) {
  const bool list = argument.size() > 1 && argument.front() == '[' && argument.back() == ']';
  return list ? wrapper + argument : argument;
}

std::string unwrapped(const std::string& argument) {
  return argument.starts_with(wrapper) ? argument.substr(1) : argument;
}

std::vector<std::string> between_commas(const std::string& list) {
  std::vector<std::string> items;
  std::stringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

}  // namespace gistkv::cli
