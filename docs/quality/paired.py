#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""paired.py A.jsonl METHOD B.jsonl METHOD: perplexity of the first over that of the second on the same texts,
with its 95 % bootstrap interval over texts (2,000 draws). The files are what two runs of `gistkv eval ppl
--results` kept, of the same --data, --limit, --length and --seed: adapters of which each was trained for a
method of its own are compared by it."""

import json
import math
import random
import sys


def read(path, method):
    """Negative log-likelihood and number of tokens of each text, in the order of the run."""
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    found = [line["record"] for line in lines if line["method"] == method]
    if not found:
        sys.exit(f"paired.py: {path}: no record of {method}")
    return [(r["nll"], r["n_tokens"]) for r in found]


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    a, b = read(sys.argv[1], sys.argv[2]), read(sys.argv[3], sys.argv[4])
    if [n for _, n in a] != [n for _, n in b]:
        sys.exit(f"paired.py: {len(a)} and {len(b)} texts, or of other lengths: want records of the same ones")

    def ratio(texts):
        mean = [sum(x[i][0] for i in texts) / sum(x[i][1] for i in texts) for x in (a, b)]
        return math.exp(mean[0] - mean[1])

    draws = random.Random(0)
    drawn = sorted(ratio(draws.choices(range(len(a)), k=len(a))) for _ in range(2000))
    print(f"{ratio(range(len(a))):.4f} ({drawn[49]:.4f} - {drawn[1949]:.4f}), {len(a)} texts")


if __name__ == "__main__":
    main()
