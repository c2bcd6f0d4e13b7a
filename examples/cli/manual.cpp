// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/manual.hpp>

#include <string_view>
#include <vector>

namespace gistkv::cli {

namespace {

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// Text that troff takes as it stands: no escapes, and no line that begins as a request.
std::string troff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool starts_line = out.empty() || out.back() == '\n';
    if (starts_line && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else {
      out += c == '-' ? "\\-" : std::string(1, c);
    }
  }
  return out;
}

std::string option_lines(const CLI::App& of) {
  std::string out;
  for (const CLI::Option* option : of.get_options()) {
    const bool takes_value = option->get_expected_max() > 0;
    const std::string value = takes_value && !option->get_positional()
                                  ? " \\fI" + troff(option->get_type_name()) + "\\fR"
                                  : "";
    const std::string name = option->get_name(option->get_positional(), true);
    out +=
        ".TP\n\\fB" + troff(name) + "\\fR" + value + "\n" + troff(option->get_description()) + "\n";
  }
  return out;
}

std::string usage_of(const CLI::App& verb) {
  std::string usage = "gistkv " + verb.get_name() + " [OPTIONS]";
  for (const CLI::Option* option : verb.get_options()) {
    if (option->get_positional()) usage += " " + option->get_name(true);
  }
  return usage;
}

}  // namespace

std::string manual_page(const CLI::App& app, const std::string& version) {
  std::string out = ".TH GISTKV 1 \"\" \"gistkv " + version + "\"\n.SH NAME\ngistkv \\- " +
                    troff(app.get_description()) +
                    "\n.SH SYNOPSIS\n\\fBgistkv\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR] ...\n" +
                    ".SH OPTIONS\n" + option_lines(app) + ".SH VERBS\n";
  for (const CLI::App* verb : verbs_of(app)) {
    out += ".SS " + troff(usage_of(*verb)) + "\n" + troff(verb->get_description()) + ".\n" +
           option_lines(*verb) + ".PP\n.nf\n" + troff(verb->get_footer()) + "\n.fi\n";
  }
  return out +
         ".SH EXIT STATUS\n0: done; 1: failed at run time; 2: wrong usage. Every error is one line "
         "on stderr.\n";
}

std::string bash_completion(const CLI::App& app) {
  std::string verbs;
  std::string cases;
  for (const CLI::App* verb : verbs_of(app)) {
    std::string options;
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        options += (options.empty() ? "--" : " --") + name;
      }
    }
    verbs += (verbs.empty() ? "" : " ") + verb->get_name();
    cases += "    " + verb->get_name() + ") words=\"" + options + "\" ;;\n";
  }
  return "_gistkv() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]} words=\n"
         "  if [ \"$COMP_CWORD\" = 1 ]; then\n"
         "    COMPREPLY=($(compgen -W \"" +
         verbs +
         "\" -- \"$word\"))\n"
         "    return\n"
         "  fi\n"
         "  case ${COMP_WORDS[1]} in\n" +
         cases +
         "  esac\n"
         "  case $word in\n"
         "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n"
         "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
         "  esac\n"
         "}\n"
         "complete -o filenames -F _gistkv gistkv\n";
}

}  // namespace gistkv::cli
