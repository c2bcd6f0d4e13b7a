#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""truncate.py ADAPTER OUT RANK: an adapter whose LoRA has a lower rank, each product B A by its largest
singular values. Needs numpy."""

import json
import struct
import sys

import numpy as np


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    facts = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        halves = np.frombuffer(data[8 + n + begin:8 + n + end], np.uint16)  # bf16
        floats = (halves.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = floats.reshape(entry["shape"])
    return tensors, facts


def write(path, tensors, facts):
    header, blobs, offset = {"__metadata__": facts}, [], 0
    for name in sorted(tensors):
        bits = np.ascontiguousarray(tensors[name], np.float32).view(np.uint32)
        blob = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def main():
    source, target, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tensors, facts = read(source)
    kept = {name: t for name, t in tensors.items() if ".lora_" not in name}
    for name, a in tensors.items():
        if not name.endswith(".lora_a"):
            continue
        before = a.shape[0]
        q_b, r_b = np.linalg.qr(tensors[name[:-1] + "b"])
        q_a, r_a = np.linalg.qr(a.T)
        u, s, v = np.linalg.svd(r_b @ r_a.T)
        root = np.sqrt(s[:rank])
        kept[name[:-1] + "b"] = (q_b @ u[:, :rank]) * root
        kept[name] = (root[:, None] * v[:rank]) @ q_a.T
    facts["alpha"] = f"{float(facts['alpha']) * rank / before:g}"  # alpha / rank stays.
    write(target, kept, facts)


if __name__ == "__main__":
    main()
