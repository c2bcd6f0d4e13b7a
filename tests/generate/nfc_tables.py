#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes include/gistkv/io/nfc_classes.hpp and nfc_decompositions.hpp: normalisation form NFC,
Unicode 17.

    pip install unicodedata2==17.0.1
    tests/generate/nfc_tables.py            writes the headers
    tests/generate/nfc_tables.py --check    exit 0 if they are what would be written, 1 if not,
                                            77 if this package is not to be had
"""
import pathlib
import sys

VERSION = "17.0.1"
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "include/gistkv/io"

FRAME = """// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace gistkv::io::detail {{

/// Part of the data of normalisation form NFC (UAX #15), Unicode {}. Written by
/// tests/generate/nfc_tables.py with the Python package unicodedata2 {}; do not edit.

// clang-format off
{}
// clang-format on

}}  // namespace gistkv::io::detail
"""
LAST = 0x10FFFF
HANGUL = range(0xAC00, 0xD7A4)  # Composed by arithmetic, not by table.
JAMO_BEHIND = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))


def canonical(unicode, code_point):
    """The one-step canonical decomposition, as a list of code points."""
    text = unicode.decomposition(chr(code_point))
    if not text or text.startswith("<"):
        return []
    return [int(part, 16) for part in text.split()]


def numbers(values):
    lines, line = [], "   "
    for v in values:
        word = f" {v:#x}," if v > 9 else f" {v},"
        if len(line) + len(word) > 100:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join(lines + [line])


def runs(keys):
    """Consecutive keys as first << 11 | index of the first; a last entry holds their number."""
    found = []
    for i, key in enumerate(keys):
        if i == 0 or keys[i - 1] != key - 1:
            found.append(key << 11 | i)
    assert len(keys) < 2048
    return found + [(LAST + 1) << 11 | len(keys)]


def written():
    import unicodedata2 as unicode
    from importlib.metadata import version

    if version("unicodedata2") != VERSION:
        raise ImportError(f"found unicodedata2 {version('unicodedata2')}, want {VERSION}")
    singles, pairs = {}, {}
    for c in range(LAST + 1):
        if c in HANGUL:
            continue
        parts = canonical(unicode, c)
        if len(parts) == 1:
            singles[c] = parts[0]
        elif parts:
            pairs[c] = tuple(parts)
    # A pair recomposes unless Unicode excludes it; asking the normaliser says which.
    whole = [c for c in pairs if unicode.normalize("NFC", chr(c)) == chr(c)]
    may_compose = {pairs[c][1] for c in whole} | JAMO_BEHIND

    def klass(c):
        combining = unicode.combining(chr(c))
        changes = not 0xD800 <= c < 0xE000 and unicode.normalize("NFC", chr(c)) != chr(c)
        return combining or (255 if changes or c in may_compose else 0)

    entries = []
    for c in range(LAST + 1):
        if not entries or entries[-1] & 0xFF != klass(c):
            entries.append(c << 8 | klass(c))

    keys = sorted(pairs)
    order = sorted(whole, key=lambda c: pairs[c])
    classes = f"""/// First code point << 8 | class, holds up to the next entry. Class: Canonical_Combining_Class; 255
/// for a starter that NFC may change or join to the character before it.
inline constexpr std::uint32_t nfc_classes[] = {{
{numbers(entries)}
}};"""
    decompositions = f"""/// Runs of code points with a canonical decomposition of one character: first code point << 11 |
/// index of its value; the last entry only ends the one before it.
inline constexpr std::uint32_t nfc_single_runs[] = {{
{numbers(runs(sorted(singles)))}
}};
inline constexpr std::uint32_t nfc_single_values[] = {{
{numbers(singles[c] for c in sorted(singles))}
}};

/// The same for decompositions of two characters, one pair after the other.
inline constexpr std::uint32_t nfc_pair_runs[] = {{
{numbers(runs(keys))}
}};
inline constexpr std::uint32_t nfc_pair_values[] = {{
{numbers(v for c in keys for v in pairs[c])}
}};

/// Indices of the pairs that compose again, ordered by the pair.
inline constexpr std::uint16_t nfc_compositions[] = {{
{numbers(keys.index(c) for c in order)}
}};"""
    bodies = {"nfc_classes.hpp": classes, "nfc_decompositions.hpp": decompositions}
    return {name: FRAME.format(unicode.unidata_version, VERSION, body)
            for name, body in bodies.items()}


def main():
    try:
        headers = written()
    except ImportError as reason:
        print(f"{reason}", file=sys.stderr)
        return 77
    if sys.argv[1:] == ["--check"]:
        return any((FOLDER / name).read_text() != text for name, text in headers.items())
    for name, text in headers.items():
        (FOLDER / name).write_text(text)
    return 0


sys.exit(main())
