#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""split.py text ADAPTER OUT: the adapter without its LoRA on gist rows.
split.py join TEXT GISTS OUT: LoRA on all rows from TEXT; gists and LoRA on gist rows from GISTS.
split.py scale ADAPTER OUT ALPHA: the adapter with another alpha of its LoRA on all rows.
split.py recent ADAPTER OUT K: the adapter with a layout that keeps K sentences raw.
split.py mean OUT ADAPTER SHARE ADAPTER SHARE...: their weighted mean (bf16), with the metadata of the first."""

import array
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


def mean(adapters):
    """Of (facts, tensors) with their shares, rounded to nearest, ties to even."""
    out = {}
    for name, (dtype, shape, _) in adapters[0][0][1].items():
        if dtype != "BF16" or any(t.get(name, ())[:2] != (dtype, shape) for (_, t), _ in adapters):
            sys.exit(f"split.py: {name}: want bf16 of one shape in all adapters")
        sums = None
        for (_, tensors), share in adapters:
            words = array.array("I", (h << 16 for h in array.array("H", tensors[name][2])))
            terms = [share * x for x in array.array("f", words.tobytes())]
            sums = terms if sums is None else [a + b for a, b in zip(sums, terms)]
        bits = array.array("I", array.array("f", sums).tobytes())
        rounded = array.array("H", ((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits))
        out[name] = (dtype, shape, rounded.tobytes())
    return out


def main():
    if len(sys.argv) > 5 and sys.argv[1] == "mean" and len(sys.argv) % 2 == 1:
        pairs = list(zip(sys.argv[3::2], sys.argv[4::2]))
        adapters = [(read(path), float(share)) for path, share in pairs]
        write(sys.argv[2], adapters[0][0][0], mean(adapters))
        return
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
