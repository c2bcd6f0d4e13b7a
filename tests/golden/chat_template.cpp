// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/io/chat_template.hpp>
#include <golden/sag_tokenizer.hpp>

using namespace gistkv;

TEST_SUITE("golden") {
  TEST_CASE("chat_template.json: the model's own template") {
    const auto golden = test::sag_golden("chat_template.json");
    const auto tokens = test::model_tokenizer();
    if (!golden || !tokens) return;
    CHECK(tokens->chat_template() == (*golden)["template"].get<std::string>());
    const auto t = io::chat_template::recognize(*tokens);
    REQUIRE_FALSE((*golden)["cases"].empty());
    for (const auto& c : (*golden)["cases"]) {
      INFO(c["messages"].dump());
      std::vector<io::chat_message> messages;
      for (const auto& m : c["messages"]) messages.push_back({m["role"], m["content"]});
      CHECK(t.render(messages, false) == c["rendered"].get<std::string>());
      const std::string prompt = t.render(messages, true);
      CHECK(prompt == c["rendered_with_generation_prompt"].get<std::string>());
      CHECK(tokens->encode(prompt) == c["ids_with_generation_prompt"].get<std::vector<token_t>>());
    }
  }

  TEST_CASE("the model's template: what compress and ask put around text") {
    const auto tokens = test::model_tokenizer();
    if (!tokens) return;
    const auto t = io::chat_template::recognize(*tokens);
    CHECK(t.family() == io::chat_family::chatml);
    REQUIRE(t.default_system());
    CHECK(t.user_opening() ==
          "<|im_start|>system\n" + *t.default_system() + "<|im_end|>\n<|im_start|>user\n");
    CHECK(t.user_closing_and_assistant_opening() == "<|im_end|>\n<|im_start|>assistant\n");
    CHECK(t.next_user_opening() == "<|im_end|>\n<|im_start|>user\n");
    CHECK_FALSE(t.begins_with_bos());
  }
}
