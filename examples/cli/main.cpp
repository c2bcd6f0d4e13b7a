// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include <cli/arguments.hpp>
#include <cli/errors.hpp>
#include <cli/manual.hpp>
#include <cli/output.hpp>
#include <cli/ranks.hpp>
#include <cli/verbs.hpp>
#include <gistkv/core/config.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv::cli {

namespace {

/// Insertions, deletions and replacements between two words (Levenshtein 1966).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

/// ", did you mean X?" for the name that is nearest, if any is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& names) {
  std::string nearest;
  std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& name : names) {
    const std::size_t d = distance(word, name);
    if (d < least) {
      least = d;
      nearest = name;
    }
  }
  return nearest.empty() ? "" : ", did you mean " + nearest + "?";
}

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  return names;
}

std::vector<std::string> option_names(const CLI::App& verb) {
  std::vector<std::string> names;
  for (const CLI::Option* option : verb.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

/// What to say of an error of the command line.
std::string explained(const CLI::App& app, const CLI::ParseError& failure) {
  const auto verbs = app.get_subcommands();
  const std::string prefix = verbs.empty() ? "" : verbs.front()->get_name() + ": ";
  if (!verbs.empty() && dynamic_cast<const CLI::ExtrasError*>(&failure) != nullptr) {
    for (const std::string& word : verbs.front()->remaining()) {
      const std::string plain = unwrapped(word);
      if (!plain.starts_with('-') || plain == "-") {
        return prefix + "'" + plain + "' was not expected, want no more than --help shows";
      }
      const std::string name = plain.substr(0, plain.find('='));
      return prefix + "unknown option " + name + suggestion(name, option_names(*verbs.front()));
    }
  }
  return prefix + failure.what() + " (gistkv" +
         (verbs.empty() ? "" : " " + verbs.front()->get_name()) + " --help)";
}

void require_verb(const CLI::App& app, const std::vector<std::string>& arguments) {
  const std::vector<std::string> names = verb_names(app);
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  if (arguments.empty()) throw usage_error("a verb is missing, want one of " + all);
  const std::string& first = arguments.front();
  if (first.starts_with('-')) return;
  if (std::find(names.begin(), names.end(), first) != names.end()) {
    if (first != "train" && first != "compress") require_one_process(first);
    return;
  }
  throw usage_error("unknown verb '" + first + "'" + suggestion(first, names) + " There are " +
                    all);
}

int complain(const std::string& what, int status) {
  if (ranks().first_to_fail()) std::fprintf(stderr, "gistkv: %s\n", one_line(what).c_str());
  return status;
}

int run(const std::vector<std::string>& arguments) {
  CLI::App app(
      "Learned compression of LLM context: the cache of a long text becomes a few rows a sentence.",
      "gistkv");
  const std::string version = std::to_string(GISTKV_VERSION_MAJOR) + "." +
                              std::to_string(GISTKV_VERSION_MINOR) + "." +
                              std::to_string(GISTKV_VERSION_PATCH);
  app.set_version_flag("--version", "gistkv " + version, "Print the version and exit");
  const auto print_and_end = [](const std::string& text) {
    print(text);
    throw CLI::Success();
  };
  app.add_flag_callback(
      "--manual", [&] { print_and_end(manual_page(app, version)); },
      "Print a man page and exit: gistkv --manual | man -l -");
  app.add_flag_callback(
      "--completion", [&] { print_and_end(bash_completion(app)); },
      "Print completion for bash and exit: . <(gistkv --completion)");
  app.require_subcommand(1);
  app.footer("Help of a verb, with an example: gistkv VERB --help");
  add_segment(app);
  add_tokenize(app);
  add_compress(app);
  add_ask(app);
  add_generate(app);
  add_chat(app);
  add_train(app);
  add_inspect(app);
  add_verify(app);
  add_eval(app);
  add_plot(app);
  try {
    join_ranks();
    require_verb(app, arguments);
    std::vector<std::string> reversed;
    for (const std::string& argument : arguments) reversed.push_back(wrapped(argument));
    std::reverse(reversed.begin(), reversed.end());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& failure) {
    if (failure.get_exit_code() == 0)
      return ranks().rank() == 0 ? app.exit(failure) : 0;  // --help, --version
    return complain(explained(app, failure), 2);
  } catch (const usage_error& failure) {
    return complain(failure.what(), 2);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", 1);
  } catch (const std::exception& failure) {
    return complain(failure.what(), 1);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return complain("stdout: cannot write all of the result", 1);
  }
  return 0;
}

}  // namespace

}  // namespace gistkv::cli

int main(int argc, char** argv) {
  const int status = gistkv::cli::run(std::vector<std::string>(argv + 1, argv + argc));
  gistkv::cli::ranks().leave(status);
  return status;
}
