#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""zero_gists.py IN.gkv OUT.gkv: the same compressed context with zeros for the keys and values of all gists.
Who can still answer from it did not need them. The format: docs/format.md."""

import struct
import sys

M = (1 << 64) - 1
P = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def rotate(x, n):
    return (x << n | x >> (64 - n)) & M


def round_(acc, lane):
    return rotate((acc + lane * P[1]) & M, 31) * P[0] & M


def xxh64(data):
    n = len(data)
    at = 0
    if n >= 32:
        v = [P[0] + P[1] & M, P[1], 0, -P[0] & M]
        for lanes in struct.iter_unpack("<4Q", data[:n // 32 * 32]):
            v = [round_(a, lane) for a, lane in zip(v, lanes)]
        h = sum(rotate(a, r) for a, r in zip(v, (1, 7, 12, 18))) & M
        for a in v:
            h = ((h ^ round_(0, a)) * P[0] + P[3]) & M
        at = n // 32 * 32
    else:
        h = P[4]
    h = (h + n) & M
    while at + 8 <= n:
        h = (rotate(h ^ round_(0, struct.unpack_from("<Q", data, at)[0]), 27) * P[0] + P[3]) & M
        at += 8
    if at + 4 <= n:
        h = (rotate(h ^ struct.unpack_from("<I", data, at)[0] * P[0] & M, 23) * P[1] + P[2]) & M
        at += 4
    for byte in data[at:]:
        h = rotate(h ^ byte * P[4] & M, 11) * P[0] & M
    h = (h ^ h >> 33) * P[1] & M
    h = (h ^ h >> 29) * P[2] & M
    return h ^ h >> 32


def main():
    source, target = sys.argv[1:3]
    with open(source, "rb") as file:
        data = bytearray(file.read())
    if data[:8] != b"GKVCACHE" or struct.unpack_from("<I", data, 8)[0] != 3:
        sys.exit(f"{source}: no compressed context of version 3")
    n_sections = struct.unpack_from("<I", data, 12)[0]
    entries = [struct.unpack_from("<IIQQ", data, 64 + 32 * i) for i in range(n_sections)]
    places = {(kind, index): (begin, size) for kind, index, begin, size in entries}
    about = places[1, 0][0]
    element = struct.unpack_from("<Q", data, about + 24)[0]
    _, heads, d = struct.unpack_from("<3q", data, about + 32)
    n_anchors, n_local, _ = struct.unpack_from("<3Q", data, about + 120)
    row = {0: 4 * d, 1: 8 * d, 2: 2 * d, 3: 2 * d, 4: (d + 3) // 4 * 4 + 4}[element]
    books = places[2, 0][0]
    kinds = [struct.unpack_from("<i", data, books + 12 * i)[0] for i in range(n_anchors + n_local)]
    for (kind, _), (begin, size) in places.items():
        if kind not in (16, 17) or size == 0:
            continue
        rows = kinds[:n_anchors] if kind == 16 else kinds[n_anchors:]
        half = heads * len(rows) * row
        for first in (begin, begin + (half + 63) // 64 * 64):
            for head in range(heads):
                for i, what in enumerate(rows):
                    if what == 1:
                        at = first + (head * len(rows) + i) * row
                        data[at:at + row] = bytes(row)
    for i, (_, _, begin, size) in enumerate(entries):
        struct.pack_into("<Q", data, 64 + 32 * i + 24, xxh64(bytes(data[begin:begin + size])))
    header = bytes(data[:56]) + bytes(data[64:64 + 32 * n_sections])
    struct.pack_into("<Q", data, 56, xxh64(header))
    with open(target, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
