#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/nfc_cases.json: texts and their normalisation form NFC.

    pip install unicodedata2==17.0.1
    tests/generate/nfc_cases.py
"""
import json
import pathlib
import random

import unicodedata2 as unicode

OUT = pathlib.Path(__file__).resolve().parents[1] / "data/nfc_cases.json"


def main():
    rng = random.Random(17)
    scalars = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    changing = [c for c in scalars if unicode.normalize("NFC", chr(c)) != chr(c)]
    decomposing = [c for c in scalars if unicode.normalize("NFD", chr(c)) != chr(c)
                   and not 0xAC00 <= c < 0xD7A4]
    combining = [c for c in scalars if unicode.combining(chr(c))]
    jamo = [*range(0x1100, 0x1114), *range(0x1160, 0x1177), *range(0x11A7, 0x11C4), 0xAC00, 0xAC01,
            0xD7A3]
    bases = [ord(c) for c in "aAeEiouyzZ \u0131\u03b1\u03c9\u0438\u0915\u0b47\u3046\u30ab"]
    texts = []
    for _ in range(500):
        text = ""
        for _ in range(rng.randrange(1, 7)):
            pool = rng.choice([bases, bases, combining, combining, decomposing, changing, jamo])
            text += chr(rng.choice(pool))
        texts.append(unicode.normalize("NFD", text) if rng.random() < 0.4 else text)
    # The characters that change by themselves, and each pair that composes, once.
    texts += ["".join(chr(c) for c in changing[i:i + 64]) for i in range(0, len(changing), 64)]
    pairs = [unicode.normalize("NFD", chr(c)) for c in decomposing]
    texts += [" ".join(pairs[i:i + 64]) for i in range(0, len(pairs), 64)]
    cases = [[text, unicode.normalize("NFC", text)] for text in texts]
    OUT.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
