#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# rows.sh PROGRAM: over 2,000 generated tokens the rows held are, at every step, S + N_g closed + the
# regular rows of the last min(K, closed) sentences + the rows of the open one, and the memory of the
# cache stays under twice the most rows held. Environment: GISTKV_MODEL.
set -eu
gistkv=$1
model=${GISTKV_MODEL:-}
if ! [ -f "$model" ]; then
  echo "SKIPPED: GISTKV_MODEL is '$model', want the model of examples/setup.sh"
  exit 77
fi
if ! command -v python3 > /dev/null; then
  echo "SKIPPED: no python3 to read JSON"
  exit 77
fi
. "$(dirname "$0")/common.sh"

cat > "$work/check.py" << 'EOF'
import json
import sys

document = json.load(open(sys.argv[1], encoding="utf-8"))
n_gist, n_sink, recent = (int(x) for x in sys.argv[2:5])
ids = document["prompt_ids"] + document["ids"]
rows = document["kv_rows_prompt"] + document["kv_rows"]
assert len(ids) == len(rows), (len(ids), len(rows))
first_gist = 49152
regular = [0]  # Regular rows of each sentence, the last one open.
open_gists = 0
for i, (token, held) in enumerate(zip(ids, rows)):
    if i >= n_sink:
        if token < first_gist:
            regular[-1] += 1
        else:
            open_gists += 1
            if open_gists == n_gist:
                open_gists = 0
                regular.append(0)
    closed = len(regular) - 1
    want = min(i + 1, n_sink) + n_gist * closed + open_gists + sum(regular[max(0, closed - recent):])
    assert held == want, (i, held, want)
assert closed > 20, closed
assert document["rows_held"] == rows[-1]
assert document["kv_bytes_allocated_peak"] < 2 * document["kv_bytes_held_peak"], document
assert len(document["ids"]) >= 2000, len(document["ids"])
print(len(ids), "rows,", closed, "sentences, at most", max(rows), "held")
EOF

for recent in 0 2; do
  does generate 'Once upon a time there was a small village by the sea. In it' --model "$model" \
    --gists 4 --recent $recent --segmenter paper,max_length:48 --max-tokens 2000 --ignore-eos --temperature 0.8 --seed 3 --json
  python3 "$work/check.py" "$work/out" 4 1 $recent || wrong "rows with --recent $recent"
  checks=$((checks + 1))
done

finish
