// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/chat_template.hpp>
#include <gistkv/io/jinja_skeleton.hpp>

#include <support/data.hpp>

using namespace gistkv;
using io::chat_family;
using io::chat_message;
using io::chat_template;

namespace {

nlohmann::json cases() {
  const auto path = test::source_dir() / "tests/data/chat_templates.json";
  return nlohmann::json::parse(std::ifstream(path));
}

std::vector<chat_message> messages_of(const nlohmann::json& list) {
  std::vector<chat_message> messages;
  for (const auto& m : list) messages.push_back({m["role"], m["content"]});
  return messages;
}

std::string template_named(std::string_view name) {
  const auto data = cases();  // Must outlive the loop over its part.
  for (const auto& c : data["cases"]) {
    if (c["name"] == name) return c["template"].get<std::string>();
  }
  FAIL("no template of this name");
  return {};
}

constexpr std::string_view bos = "<|begin_of_text|>";

}  // namespace

TEST_CASE("chat template: renders as Jinja does") {
  const auto data = cases();
  const auto& conversations = data["conversations"];
  REQUIRE(data["cases"].size() == 8);
  for (const auto& c : data["cases"]) {
    const auto source = c["template"].get<std::string>();
    const auto t = chat_template::recognize(source, bos);
    const auto quiet =
        chat_template::recognize(source, bos, {.thinking = false, .date = "26 Jul 2024"});
    REQUIRE(c["rendered"].size() == conversations.size());
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      const auto messages = messages_of(conversations[i]);
      const auto& expected = c["rendered"][i];
      INFO(c["name"].dump(), " on ", conversations[i].dump());
      CHECK(t.render(messages, false) == expected["plain"].get<std::string>());
      CHECK(t.render(messages, true) == expected["generation"].get<std::string>());
      CHECK(quiet.render(messages, true) == expected["no_thinking"].get<std::string>());
    }
  }
}

TEST_CASE("chat template: the families and what they stand for") {
  const auto family = [](std::string_view name) {
    return chat_template::recognize(template_named(name), bos).family();
  };
  CHECK(family("chatml") == chat_family::chatml);
  CHECK(family("chatml spelled otherwise") == chat_family::chatml);
  CHECK(family("llama3") == chat_family::llama3);
  CHECK(family("llama3 dated") == chat_family::llama3_dated);
  CHECK(family("qwen2") == chat_family::qwen2);
  CHECK(family("qwen3") == chat_family::qwen3);
  CHECK(chat_template::recognize(template_named("chatml with default")).default_system() ==
        "You help.");
  CHECK(chat_template::recognize(template_named("qwen2")).default_system() == "You are of use.");
  CHECK_FALSE(chat_template::recognize(template_named("qwen3")).default_system());
  CHECK_FALSE(chat_template::recognize(template_named("chatml")).begins_with_bos());
  CHECK(chat_template::recognize(template_named("chatml with bos"), bos).begins_with_bos());
}

TEST_CASE("chat template: the parts of a conversation make up the whole") {
  const auto data = cases();  // Must outlive the loop over its part.
  for (const auto& c : data["cases"]) {
    const auto t = chat_template::recognize(c["template"].get<std::string>(), bos);
    INFO(c["name"].dump());
    const std::vector<chat_message> all = {{"system", "Be kind."}, {"user", "One. Two."},
                                           {"assistant", "Three"}, {"user", "Four?"},
                                           {"assistant", "Five"},  {"user", "Six"}};
    std::string joined = t.user_opening("Be kind.") + all[1].content;
    CHECK(joined + std::string(t.closing()) == t.render(std::span(all).first(2), false));
    for (std::size_t i = 2; i < all.size(); i += 2) {
      joined += t.user_closing_and_assistant_opening() + all[i].content;
      joined += t.next_user_opening() + all[i + 1].content;
    }
    CHECK(joined + t.user_closing_and_assistant_opening() == t.render(all, true));
    const std::vector<chat_message> question = {{"user", "Why?"}};
    CHECK(t.user_opening() + "Why?" + t.user_closing_and_assistant_opening() ==
          t.render(question, true));
  }
}

TEST_CASE("chat template: the date is the caller's") {
  const auto t = chat_template::recognize(template_named("llama3 dated"), bos,
                                          {.thinking = true, .date = "01 Feb 2030"});
  CHECK(t.user_opening() ==
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
        "December 2023\nToday Date: 01 Feb 2030\n\n<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\n");
}

TEST_CASE("chat template: refuses what it does not know, naming what it found") {
  CHECK_THROWS_WITH_AS(chat_template::recognize("{{ '[INST] ' + messages[0]['content'] }}"),
                       "chat template: begins with '{{ \\x27[INST] \\x27 + "
                       "messages[0][\\x27content\\x27] }}' and holds '[INST]', expected ChatML, "
                       "SmolLM2, Llama 3, Qwen 2.5 or Qwen 3",
                       format_error);
  CHECK_THROWS_WITH_AS(chat_template::recognize("{% for message in messages %}\ntext{% endfor %}"),
                       "chat template: prints '\\x0atext' between its tags, expected all text "
                       "inside {{ }}",
                       format_error);
  for (const char* cut : {"{{", "{{ 'a", "{{ 'a\\", "{% if", "{# never", "{"}) {
    CHECK_THROWS_AS(chat_template::recognize(cut), format_error);
  }
  CHECK_THROWS_AS(chat_template::recognize(""), format_error);
  CHECK_THROWS_AS(chat_template::recognize(template_named("llama3")), format_error);
}

TEST_CASE("chat template: a small change of a known template is another template") {
  const std::string chatml = template_named("chatml with default");
  const auto changed = [](std::string text, std::string_view from, std::string_view to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  const auto refused = [](const std::string& source) {
    CHECK_THROWS_AS(chat_template::recognize(source, bos), format_error);
  };
  refused(changed(chatml, "message['content']", "message['content'] | trim"));
  refused(changed(chatml, "<|im_end|>' + '\\n'", "<|im_end|>'"));
  refused(changed(chatml, "!= 'system'", "== 'system'"));
  refused(changed(chatml, "assistant\\n", "assistant\\n<think>\\n"));
  refused(chatml + "{{ bos_token }}");
  refused(changed(template_named("qwen2"), "not loop.first", "loop.first"));
  refused(changed(template_named("qwen3"), "loop.index0 >", "loop.index0 >="));
  refused(changed(template_named("qwen3"), "lstrip", "rstrip"));
  refused(changed(template_named("llama3"), "bos_token +", ""));
  refused(changed(template_named("llama3 dated"), "December 2023", "January 2024"));
}

TEST_CASE("chat template: messages that have no rendering") {
  const auto qwen = chat_template::recognize(template_named("qwen3"));
  CHECK_THROWS_AS(qwen.render({}, true), argument_error);
  const std::vector<chat_message> tool = {{"user", "x"}, {"tool", "y"}};
  CHECK_THROWS_WITH_AS(qwen.render(tool, true),
                       "chat template: role 'tool', expected system, user or assistant",
                       argument_error);
  const auto chatml = chat_template::recognize(template_named("chatml"));
  CHECK(chatml.render(tool, false) ==
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>tool\ny<|im_end|>\n");
}

TEST_CASE("jinja skeleton: spelling does not matter, text does") {
  CHECK(io::jinja_skeleton("{%- if  a -%}  {{- \"x\\n\" + 'y' + b -}} {% endif %}\n") ==
        "{%ifa%}{{'x\ny'+b}}{%endif%}");
  CHECK(io::jinja_skeleton("{# c #}\n{% if a %}\n  {% endif %}") == "{%ifa%}{%endif%}");
  CHECK(io::jinja_skeleton("{{ message.role }}") == "{{message['role']}}");
  CHECK(io::jinja_skeleton("{{ '}}' + '%}' }}") == "{{'}}%}'}}");
  // What follows an output stays printed: only blocks take their newline.
  CHECK_THROWS_AS(io::jinja_skeleton("{{ a }}\n{{ b }}"), format_error);
  CHECK_THROWS_AS(io::jinja_skeleton("{% if a %}\n\n{% endif %}"), format_error);
  CHECK_THROWS_AS(io::jinja_skeleton(" {{ a }}"), format_error);
}
