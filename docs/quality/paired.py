#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""paired.py A.jsonl METHOD B.jsonl METHOD: perplexity of the first over that of the second on the same texts,
with its 95 % bootstrap interval over documents (2,000 draws; the windows of a document are drawn together).
The files are what two runs of `gistkv eval ppl --results` kept, of the same --data, --limit, --length,
--windows and --seed: adapters of which each was trained for a method of its own are compared by it."""

import json
import math
import random
import sys


def read(path, method):
    """{document: (negative log-likelihood, number of tokens) of all its windows}."""
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    found = [line["record"] for line in lines if line["method"] == method]
    if not found:
        sys.exit(f"paired.py: {path}: no record of {method}")
    if any("document" not in r for r in found):
        sys.exit(f"paired.py: {path}: records without the names of their documents: measure them anew")
    if len({(r["document"], r["begin"]) for r in found}) < len(found):
        sys.exit(f"paired.py: {path}: holds a text twice, of two adapters or settings: want a file for each run")
    documents = {}
    for r in found:
        nll, n = documents.get(r["document"], (0, 0))
        documents[r["document"]] = nll + r["nll"], n + r["n_tokens"]
    return documents


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    a, b = read(sys.argv[1], sys.argv[2]), read(sys.argv[3], sys.argv[4])
    if {d: n for d, (_, n) in a.items()} != {d: n for d, (_, n) in b.items()}:
        sys.exit("paired.py: not the same tokens of the same documents: want records of the same texts")

    def ratio(documents):
        mean = [sum(x[d][0] for d in documents) / sum(x[d][1] for d in documents) for x in (a, b)]
        return math.exp(mean[0] - mean[1])

    draws = random.Random(0)
    drawn = sorted(ratio(draws.choices(list(a), k=len(a))) for _ in range(2000))
    print(f"{ratio(a):.4f} ({drawn[49]:.4f} - {drawn[1949]:.4f}), {len(a)} documents")


if __name__ == "__main__":
    main()
