#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""split.py text ADAPTER OUT: the adapter without its LoRA on gist rows.
split.py join TEXT GISTS OUT: LoRA on all rows from TEXT; gists and LoRA on gist rows from GISTS.
split.py scale ADAPTER OUT ALPHA: the adapter with another alpha of its LoRA on all rows.
split.py recent ADAPTER OUT K: the adapter with a layout that keeps K sentences raw."""

import json
import struct
import sys


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    facts = header.pop("__metadata__")
    body = data[8 + n:]
    return facts, {name: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])])
                   for name, e in header.items()}


def write(path, facts, tensors):
    header, offset = {"__metadata__": facts}, 0
    for name in sorted(tensors):
        dtype, shape, blob = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name][2])


def main():
    what, first, *rest = sys.argv[1:] if len(sys.argv) > 3 else ["", ""]
    if what not in ("text", "join", "scale", "recent") or len(rest) != (1 if what == "text" else 2):
        sys.exit(__doc__)
    facts, tensors = read(first)
    on_all = {n: t for n, t in tensors.items() if ".gist_lora_" not in n}
    if what == "text":
        facts["lora_rows"] = "all"
        del facts["gist_alpha"]
        write(rest[0], facts, on_all)
    elif what in ("scale", "recent"):
        facts["alpha" if what == "scale" else what] = rest[1]
        write(rest[0], facts, tensors)
    else:
        facts2, tensors2 = read(rest[0])
        kept = {n: t for n, t in tensors2.items() if ".lora_" not in n}
        kept.update({n: t for n, t in on_all.items() if ".lora_" in n})
        facts2["alpha"] = facts["alpha"]
        write(rest[1], facts2, kept)


if __name__ == "__main__":
    main()
