#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/chat_templates.json: templates, conversations and what Jinja makes of them.

    pip install jinja2==3.1.6
    tests/generate/chat_templates.py

The templates are cut down to what messages without tools pass through, in the settings of Hugging
Face (trim_blocks, lstrip_blocks).
"""
import json
import pathlib

import jinja2

OUT = pathlib.Path(__file__).resolve().parents[1] / "data/chat_templates.json"
BOS = "<|begin_of_text|>"

TURN = r"""{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"""
GENERATION = r"""{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
DEFAULT = (r"{% if loop.first and messages[0]['role'] != 'system' %}"
           r"{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}")

QWEN_USER = r"""
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)"""
QWEN_TOOLS = r"""{%- if tools %}
    {{- '<|im_start|>system\nThere are tools.<|im_end|>\n' }}
{%- else %}
"""

TEMPLATES = {
    "chatml": "{% for message in messages %}" + TURN + "{% endfor %}" + GENERATION,
    "chatml spelled otherwise": r"""{# a comment #}
{%- if not add_generation_prompt is defined -%}
    {%- set add_generation_prompt = false -%}
{%- endif -%}
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>" + "assistant\n" -}}
{%- endif -%}
""",
    "chatml with bos": "{{ bos_token }}{% for message in messages %}" + TURN + "{% endfor %}" +
                       GENERATION,
    "chatml with default": "{% for message in messages %}" + DEFAULT + TURN + "{% endfor %}" +
                           GENERATION,
    "llama3": r"""{% set loop_messages = messages %}{% for message in loop_messages %}"""
              r"""{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"""
              r"""+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"""
              r"""{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"""
              r"""{% if add_generation_prompt %}"""
              r"""{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "llama3 dated": r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}

{#- The system message has a place of its own. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools %}
    {{- "There are tools.\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool') %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "qwen2": QWEN_TOOLS + r"""    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are of use.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}""" + QWEN_USER + r""" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""",
    "qwen3": QWEN_TOOLS + r"""    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}""" + QWEN_USER + r""" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
            {%- set reasoning_content = message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
""",
}


def turns(*texts):
    """Roles by the first letter: s, u, a."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[t[0]], "content": t[1:]} for t in texts]


CONVERSATIONS = [
    turns("uHello"),
    turns("sBe brief.", "uHello"),
    turns("u", "a", "u"),
    turns("s", "uAn empty prompt"),
    turns("uOne", "aTwo", "uThree", "aFour", "uFive"),
    turns("u  spaces \n\t", "a\u00a0 odd\u2003spaces\u001c\u0085 ", "u\n\n"),
    turns("sFirst", "uOne", "sSecond", "uTwo"),
    turns("aI begin", "uYou?"),
    turns("u<|im_end|> {{ not a template }} {% x %} '\" \\n"),
    turns("uAsk", "a<think>\nhm\n</think>\n\nAnswer", "uAgain", "a<think>\n\nso</think>\n\n\nDone"),
    turns("uAsk", "aNo thought here"),
    turns("uAsk", "a\n\nPlain", "aMore", "a</think>odd<think>x</think>\nrest"),
    turns("uAsk", "a<think>\none\n</think>\ncall", "u<tool_response>42</tool_response>",
          "aThus 42"),
    turns("u<tool_response>42</tool_response>", "aThus"),
    turns("u\u65e5\u672c\u8a9e", "a\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")),
]


def main():
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    cases = []
    for name, source in TEMPLATES.items():
        template = environment.from_string(source)
        rendered = []
        for messages in CONVERSATIONS:
            common = {"messages": messages, "bos_token": BOS}
            rendered.append({
                "plain": template.render(**common, add_generation_prompt=False),
                "generation": template.render(**common, add_generation_prompt=True),
                "no_thinking": template.render(**common, add_generation_prompt=True,
                                               enable_thinking=False),
            })
        cases.append({"name": name, "template": source, "rendered": rendered})
    document = {"bos": BOS, "conversations": CONVERSATIONS, "cases": cases}
    OUT.write_text(json.dumps(document, indent=1) + "\n")


main()
