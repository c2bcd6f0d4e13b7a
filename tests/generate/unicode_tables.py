#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes include/gistkv/text/unicode_tables.hpp: category and Sentence_Break of Unicode 17.

    pip install unicodedata2==17.0.1 regex==2025.11.3
    tests/generate/unicode_tables.py            writes the header
    tests/generate/unicode_tables.py --check    exit 0 if it is what would be written, 1 if not,
                                                77 if these packages are not to be had
The two packages carry their own copies of the Unicode character database; the script stops if they
disagree about which code points are letters, numbers or marks.
"""
import pathlib
import sys

UNICODE = "17.0.0"
VERSIONS = {"unicodedata2": "17.0.1", "regex": "2025.11.3"}
HEADER = pathlib.Path(__file__).resolve().parents[2] / "include/gistkv/text/unicode_tables.hpp"
LIMIT = 0x110000

# The order is that of `enum class sentence_break` in unicode.hpp; 0 is Other.
BREAKS = ["CR", "LF", "Extend", "Sep", "Format", "Sp", "Lower", "Upper", "OLetter", "Numeric",
          "ATerm", "SContinue", "STerm", "Close"]
UPPER, LOWER = BREAKS.index("Upper") + 1, BREAKS.index("Lower") + 1
# The order is that of `enum class category`; 0 is everything else.
CATEGORIES = {"L": 1, "N": 2, "M": 3}
ALTERNATING = 0x40


def properties():
    """The value of every code point: Sentence_Break in bits 0-3, category in bits 4-5."""
    import regex
    import unicodedata2
    from importlib.metadata import version

    found = {name: version(name) for name in VERSIONS}
    if found != VERSIONS or unicodedata2.unidata_version != UNICODE:
        raise ImportError(f"found {found}, want {VERSIONS}")
    scalars = [c for c in range(LIMIT) if not 0xD800 <= c < 0xE000]
    text = "".join(map(chr, scalars))
    values = [0] * LIMIT
    for c in scalars:
        values[c] = CATEGORIES.get(unicodedata2.category(chr(c))[0], 0) << 4
    for name, number in CATEGORIES.items():
        other = {scalars[m.start()] for m in regex.finditer(rf"\p{{{name}}}", text)}
        mine = {c for c in scalars if values[c] >> 4 == number}
        if other != mine:
            raise SystemExit(f"the packages disagree about {name}: {sorted(other ^ mine)[:10]}")
    spaces = set()
    for number, name in enumerate(BREAKS, 1):
        for match in regex.finditer(rf"\p{{SB={name}}}", text):
            values[scalars[match.start()]] |= number
            if name in ("CR", "LF", "Sep", "Sp"):
                spaces.add(scalars[match.start()])
    if spaces != {scalars[m.start()] for m in regex.finditer(r"\p{White_Space}", text)}:
        raise SystemExit("White_Space is no longer CR, LF, Sep and Sp together: unicode.hpp uses that")
    return values


def ranges(values):
    """(first code point, value) pairs, each valid up to the next one. Runs in which capital and
    small letters take turns become one range."""
    upper, lower = 1 << 4 | UPPER, 1 << 4 | LOWER
    out, c = [], 0
    while c < LIMIT:
        end = c
        while end < LIMIT and values[end] == (upper if (end - c) % 2 == 0 else lower):
            end += 1
        if end - c >= 4 and values[end - 1] == upper and end < LIMIT and values[end] == upper:
            end -= 1  # The run of capitals that follows is its own range.
        if end - c >= 4:
            out.append((c, ALTERNATING | 1 << 4))
        else:
            end = next((e for e in range(c + 1, LIMIT) if values[e] != values[c]), LIMIT)
            if values[c] == upper and end - c > 1 and end < LIMIT and values[end] == lower:
                end -= 1  # The last capital may begin a run of turns.
            out.append((c, values[c]))
        c = end
    return out


def expand(table):
    """Inverse of `ranges`, to check it."""
    values = []
    for (first, value), (end, _) in zip(table, table[1:] + [(LIMIT, 0)]):
        if value & ALTERNATING:
            values += [1 << 4 | (UPPER, LOWER)[i % 2] for i in range(end - first)]
        else:
            values += [value] * (end - first)
    return values


def header():
    values = properties()
    table = ranges(values)
    if expand(table) != values:
        raise SystemExit("the ranges do not give the properties back")
    lines, line = [], "   "
    for first, value in table:
        entry = f" 0x{first << 8 | value:x},"
        if len(line) + len(entry) > 100:
            lines.append(line)
            line = "   "
        line += entry
    body = "\n".join(lines + [line])
    packages = " and ".join(f"{name} {version}" for name, version in VERSIONS.items())
    return f"""// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace gistkv::text::detail {{

/// General category and Sentence_Break of every code point, Unicode {UNICODE}. Written by
/// tests/generate/unicode_tables.py with the Python packages
/// {packages}; do not edit.
///
/// Each entry is first code point << 8 | value and holds up to the next entry. Value:
/// Sentence_Break in bits 0-3, category in bits 4-5, both numbered as in unicode.hpp; bit 6 says
/// that Upper and Lower take turns from the first code point on.
// clang-format off
inline constexpr std::uint32_t unicode_ranges[] = {{
{body}
}};
// clang-format on

}}  // namespace gistkv::text::detail
"""


def main():
    check = sys.argv[1:] == ["--check"]
    try:
        text = header()
    except ImportError as missing:
        print(missing, file=sys.stderr)
        return 77
    if check:
        return 0 if HEADER.read_text(encoding="utf-8") == text else 1
    HEADER.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
