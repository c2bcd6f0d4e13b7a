#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""The same texts with the same gists in llama.cpp and in gistkv, side by side.

    compare.py --model MODEL.gguf [--engine-model F32.gguf] [--adapter FILE] [--kv TYPE] [--flash 0|1]
               [--cache-type TYPE] [--threads N] [--max-tokens N] [--rounding] BUILD PROGRAM TEXT...

BUILD/gist_llama reads each TEXT and writes on, greedily, once with gists and once with all rows;
so does BUILD/PROGRAM (gistkv-eigen, gistkv-onednn). Prints a table. Fails unless rows and ids of
the two with gists are the same; with --rounding the ids may part, and the table says where.
"""

import argparse
import json
import subprocess
import sys


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"compare.py: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def same(a, b):
    """How many entries at the beginning are equal."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def row(text, engine, r, n_same=""):
    held = r["kv_rows_prompt"][-1]
    kv = r.get("state_bytes_prompt", held * r["kv_bytes_row"])  # llama.cpp's own count, if it is.
    return (f"| {text} | {engine} | {r['method']} | {len(r['prompt_ids'])} | {held} | "
            f"{kv / 1e6:.2f} MB | {n_same} | {r['seconds_prompt']:.2f} | "
            f"{r['tokens_per_second']:.1f} | {r['peak_rss_bytes'] / 1e6:.0f} MB |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for name in ("--model", "--engine-model", "--adapter", "--cache-type"):
        parser.add_argument(name)
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--flash", default="1")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--max-tokens", default="100")
    parser.add_argument("--rounding", action="store_true")
    parser.add_argument("build")
    parser.add_argument("program")
    parser.add_argument("texts", nargs="+")
    a = parser.parse_args()
    adapter = ["--adapter", a.adapter] if a.adapter else []
    common = ["--model", a.model, "--threads", a.threads, "--max-tokens", a.max_tokens]
    theirs = [f"{a.build}/gist_llama", *common, "--kv", a.kv, "--flash", a.flash,
              "--engine-model", a.engine_model or a.model]
    ours = [f"{a.build}/{a.program}", "generate", *common, "--json"]
    if a.cache_type:
        ours += ["--cache-type", a.cache_type]
    print("| text | engine | method | rows read | rows held | KV bytes | same ids | s to read | "
          "tokens/s | peak memory |\n|" + " --- |" * 10)
    equal = True
    for text in a.texts:
        gist = [run([*theirs, *adapter, "-f", text]), run([*ours, *adapter, "-f", text])]
        full = [run([*theirs, "--method", "full", "-f", text]),
                run([*ours, "--method", "full", "-f", text])]
        for x, y in (gist, full):
            n = same(x["ids"], y["ids"])
            print(row(text, "llama.cpp", x, f"{n} of {len(y['ids'])}"))
            print(row(text, a.program, y))
            equal &= x["prompt_ids"] == y["prompt_ids"]
            equal &= x["kv_rows_prompt"] == y["kv_rows_prompt"]
            equal &= a.rounding or (x["ids"] == y["ids"] and x["kv_rows"] == y["kv_rows"])
    if not equal:
        sys.exit("compare.py: rows or ids differ")


if __name__ == "__main__":
    main()
