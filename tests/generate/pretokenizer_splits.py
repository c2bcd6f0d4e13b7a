#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/pretokenizer_splits.json: texts and where the four rules cut them.

    pip install tokenizers==0.23.3
    tests/generate/pretokenizer_splits.py

The cuts are those of the package's own regular expressions, as byte lengths of the words. Random
characters are ones that this Python's Unicode data knows: the package's may be older than ours.
"""
import json
import pathlib
import random
import unicodedata

from tokenizers import Regex, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parents[1] / "data/pretokenizer_splits.json"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
RULES = {
    "gpt-2": pre_tokenizers.Split(Regex(GPT2), "isolated"),
    "llama-bpe": pre_tokenizers.Split(Regex(LLAMA), "isolated"),
    "qwen2": pre_tokenizers.Split(Regex(LLAMA.replace("{1,3}", "")), "isolated"),
    "smollm": pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
}
TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\r\n", " \n", "\n ", "a", " a", "  a", "\ta", " \ta", "a ",
    "a  ", "a  b", "a   b", "a\n\nb", "a \n b", "a \n  \n  b", "a\r\n\r\nb", " \n \n ", "\n\n\n x",
    "I'm you're he's we'll they've I'd don't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D DON'T",
    "'s", "'S", "'t's", "'re've", "'ll'LL'Ll", "'l", "'r", "'v", "'", "''", "'x", " 's", " 't is",
    "'\u017f '\u017fa x'\u017f", "'\ufb06 it", "\u2019s it\u2019s", "'sam 'Sam 'mars 'dog 'd'd",
    "1", "12", "123", "1234", "12345678", "3.14", "1,000,000", "a1b22c333", " 1 22 333 4444", "x 1y",
    "\u0661\u0662\u0663\u0664", "\u00bd\u00b2\u2460\u2167", " \u00bd \u00b2", "5  5", "5   ", "   5",
    "  5  ", "a  5", "5  a", "5'", "5's", "'5", "1st 2nd", "H2O", "\u4e00\u4e8c3\u4e09", "Tom's 5'4\"",
    "(x) (yy) [1] {z}", "((a", "a))", "...", " ...", "  ...", "a...b", "!?\n", "!?\r\n\n x", " !\n!",
    "x=1;\n\ty=2;\r\n", "    def f(x):\n        return x\n", "#include <a>\n\n\nint", "a\t\tb", "\t\t",
    "http://a.b/c?d=e&f=%20", "a_b-c", "_a", "-a", "$5 \u20ac6", "e\u0301 e\u0301\u0301x", "\u0301",
    " \u0301a", "\u0915\u094d\u0937\u093f", "\u65e5\u672c\u8a9e \u30c6\u30b9\u30c8\u3002", "\U0001f600",
    "\U0001f600\U0001f600 \U0001f468\u200d\U0001f469", "\u00a0a", "a\u00a0b", "a\u3000\u3000b", "\u2028x",
    "\u0085\u0085", "a\u200bb", "\u180ea", "\ufeffa", "a\u0000b", "\u0000", "\u001c\u001d a", "\u00ad",
    "stra\u00dfe \u01c5 \u02b0 \u00aa", " \n\u3000\n\ta", "\n\u00a0a", "a \u00a0", "\u2003\n\u2003x",
]


def random_text(rng, pool):
    pieces = [" ", "  ", "\n", "\r\n", "\t", "'", "'s", "'LL", "1", "23", "456", "a", "Bc", "...", "(",
              "\u00e9", "\u3042", "\u00a0", "\u3000", "\u00bd", "\u0301", "\u2019", "\U0001f680", "-"]
    n = rng.randrange(1, 24)
    return "".join(rng.choice(pieces) if rng.random() < 0.6 else chr(rng.choice(pool))
                   for _ in range(n))


def main():
    rng = random.Random(20260)
    pool = [c for c in range(0x20, 0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = TEXTS + [random_text(rng, pool) for _ in range(400)]
    cases = []
    for text in texts:
        case = {"text": text}
        for name, rule in RULES.items():
            spans = [span for _, span in rule.pre_tokenize_str(text)]
            words = [text[begin:end] for begin, end in spans]
            assert "".join(words) == text, (name, text)
            case[name] = [len(word.encode()) for word in words]
        cases.append(case)
    OUT.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
