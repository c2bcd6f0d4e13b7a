#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/block_formats.json: random stored blocks and the floats that they stand for.

The floats come from the numpy decoder of the PyPI package gguf (pip install gguf numpy), which shares
no code with this library. Run from the root of the repository.
"""

import json
import pathlib

import gguf
import numpy as np

TYPES = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "q8_0": "Q8_0",
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "q4_k": "Q4_K",
    "q5_k": "Q5_K",
    "q6_k": "Q6_K",
}
# Byte offsets of the float16 fields of a block. Random bits would often be NaN or huge there.
HALVES = {"q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208]}


def blocks(name, n_blocks, generator):
    length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[TYPES[name]]]
    if length == 1:
        values = generator.normal(0, 2, n_blocks * 32).astype(np.float32)
        if name == "f32":
            return values.view(np.uint8)
        if name == "f16":
            return values.astype(np.float16).view(np.uint8)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    raw = generator.integers(0, 256, (n_blocks, size), dtype=np.uint8)
    for offset in HALVES[name]:
        scale = generator.normal(0, 0.05, n_blocks).astype(np.float16)
        raw[:, offset : offset + 2] = scale.view(np.uint8).reshape(n_blocks, 2)
    return raw.reshape(-1)


def cases(n_blocks, seed):
    generator = np.random.default_rng(seed)
    result = []
    for name, kind in TYPES.items():
        raw = blocks(name, n_blocks, generator)
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        result.append({"type": name, "bytes": raw.tobytes().hex(), "values": values.tolist()})
    return result


def main():
    out = pathlib.Path("tests/data/block_formats.json")
    with out.open("w") as file:
        # Every value is a float32; the shortest text of the double that equals it reads back to it.
        lines = ",\n".join(json.dumps(case) for case in cases(n_blocks=1, seed=20240607))
        file.write('{"cases": [\n' + lines + "\n]}\n")
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
