#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# slices.sh PROGRAM: a run in slices by examples/train_gpu.sh, whole way through: the model in parts, a
# slice a step, the checkpoint carried in parts to another folder; the same bytes as one run at once.
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
script=$(cd "$(dirname "$0")/../.." && pwd)/examples/train_gpu.sh
make_tiny_model "$work/folder/model"
cd "$work/folder"
i=0
while [ $i -lt 24 ]; do
  echo "{\"text\": \"Tom saw a ship. It had $i red sails! Was it big? It was big. Tom ran to the sea.\"}"
  i=$((i + 1))
done > docs.jsonl
cat > train.json << 'END'
{"model": "model", "output": "run", "seed": 3, "gists": 2, "recent": 1,
 "data": {"files": ["docs.jsonl"]}, "lora": {"rank": 2}, "save_every": 100,
 "validate_every": 2, "validation_windows": 1,
 "stages": [
  {"train": "gists", "sequence": 96, "batch": 1, "steps": 2, "learning_rate": 0.02, "warm_up": 1},
  {"train": "lora", "sequence": 96, "batch": 1, "steps": 3, "learning_rate": 0.01, "warm_up": 1}]}
END
does train sag --config train.json --threads 1
mv run once

(cd model && sha256sum model.safetensors) | sed 's,  ,  model/,' > SHA256SUMS
slice() {
  checks=$((checks + 1))
  status=0
  sh "$script" "$@" > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = 0 ] || wrong "train_gpu.sh $*: status $status: $(cat "$work/err")"
}
export OMP_NUM_THREADS=1
# Three steps here (a slice never ends between two stages), the others where only what --results gives has been carried.
slice . --max-minutes 0.00001 --results "$work/kept" --program "$gistkv"
slice . --max-minutes 0.00001 --results "$work/kept" --program "$gistkv"
says err 'step 2/2'
says err 'perplexity'
mkdir "$work/other"
cp -r model docs.jsonl train.json SHA256SUMS "$work/other"
mkdir "$work/other/run"
mv "$work"/kept/checkpoint.safetensors.part-* "$work/kept/log.csv" "$work/other/run/"
n=0
while [ $n -lt 2 ]; do
  slice "$work/other" --max-minutes 0.00001 --program "$gistkv"
  n=$((n + 1))
done
says err 'step 3/3'
checks=$((checks + 2))
cmp once/adapter.safetensors "$work/other/run/adapter.safetensors" || wrong 'slices give another adapter'
cmp once/checkpoint.safetensors "$work/other/run/checkpoint.safetensors" ||
  wrong 'slices give another checkpoint'

# A model that came in parts is joined; one that is not whole is refused.
mkdir "$work/parts"
printf 'abc' > "$work/parts/m.gguf.part-aa"
printf 'def' > "$work/parts/m.gguf.part-ab"
echo '{"model": "m.gguf", "output": "run"}' > "$work/parts/train.json"
printf 'abcdeX' | sha256sum | sed 's/-/m.gguf/' > "$work/parts/SHA256SUMS"
checks=$((checks + 2))
! sh "$script" "$work/parts" --program "$gistkv" > /dev/null 2> "$work/err" ||
  wrong 'a broken model is taken'
says err 'is not what SHA256SUMS says'
[ "$(cat "$work/parts/m.gguf")" = abcdef ] || wrong 'parts are joined wrongly'
finish
