#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# stages.sh PROGRAM: three stages from one config, and a model that was trained as a whole read by
# the other verbs (environment variable GISTKV_DATA_DIR).
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
make_tiny_model "$work/model"
i=0
while [ $i -lt 24 ]; do
  echo "{\"text\": \"Tom saw a ship. It had $i red sails! Was it big? It was big. Tom ran to the sea.\"}"
  i=$((i + 1))
done > "$work/docs.jsonl"

# config STAGES [MORE]: $work/c.json, writing to $work/run.
config() {
  cat > "$work/c.json" << END
{"model": "$work/model", "output": "$work/run", "seed": 3, "gists": 2, "recent": 1, ${2:-}
 "data": {"files": ["$work/docs.jsonl"], "cache": "$work/tokens.safetensors"},
 "save_every": 4, "validate_every": 0, "stages": [$1]}
END
}
# The published stages, scaled down.
warm='{"train": "gists", "sequence": 128, "batch": 2, "micro_batch": 2, "steps": 12, "learning_rate": 0.02, "floor": 0.01, "warm_up": 2}'
full='{"train": "all", "sequence": 128, "batch": 2, "micro_batch": 2, "steps": 16, "learning_rate": 0.002, "floor": 0.001, "warm_up": 4}'
cool='{"train": "all", "sequence": 128, "batch": 4, "micro_batch": 2, "steps": 12, "learning_rate": 0.001, "floor": 0, "warm_up": 1}'
config "$warm, $full, $cool"
does train sag --config "$work/c.json" --threads 1 --json
holds 'three stages' 'd["stages"] == 3 and d["model"].endswith("run/model")'
checks=$((checks + 1))
python3 - "$work/run/log.csv" << 'END' || wrong 'the loss does not fall in each stage'
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
fell = True
for stage, steps in (("1", 12), ("2", 16), ("3", 12)):
    losses = [float(r["loss"]) for r in rows if r["stage"] == stage]
    n = len(losses) // 3
    first, last = sum(losses[:n]) / n, sum(losses[-n:]) / n
    print(f"stage {stage}: {first:.3f} -> {last:.3f}")
    fell = fell and len(losses) == steps and last < first
sys.exit(0 if fell else 1)
END
cp -r "$work/run" "$work/whole"

# What a stage has made is a model as any other.
does inspect "$work/run/model" --json
holds 'inspect' 'd["config"]["n_layers"] == 5'
does inspect "$work/run/adapter.safetensors" --model "$work/run/model" --json
holds 'the adapter belongs to it' 'd["fits_model"] and d["metadata"]["stage"] == "3"'
printf 'Tom saw a ship. It had two sails. It was ' > "$work/text"
set -- --adapter "$work/run/adapter.safetensors" --recent 1
does compress "$work/text" -o "$work/t.gkv" --model "$work/run/model" "$@" --json
holds 'compress' 'd["n_gist"] == 4'
does ask "$work/t.gkv" 'Who?' --model "$work/run/model" "$@" --max-tokens 3 --json
does generate -f "$work/text" --model "$work/run/model" "$@" --max-tokens 8 --json
holds 'bytes of text, as it learned' '"PAD" not in d["text"]'
does generate -f "$work/text" --model "$work/model" --gists 2 --recent 1 --max-tokens 8 --json
holds 'words that the tokenizer does not have, before' '"PAD" in d["text"]'
refuses 1 'was trained on another model' generate -f "$work/text" --model "$work/model" "$@"
refuses 1 'adapter.safetensors: was trained on another model' \
  inspect "$work/run/adapter.safetensors" --model "$work/model"
config "$warm" "\"adapter\": \"$work/run/adapter.safetensors\","
sed "s,$work/run\",$work/foreign\"," "$work/c.json" > "$work/foreign.json"
refuses 1 'run/adapter.safetensors: was trained on another model' \
  train sag --config "$work/foreign.json" --threads 1

# A run that ends behind the second stage and goes on gives the same bytes as all in one.
rm -r "$work/run"
config "$warm, $full"
does train sag --config "$work/c.json" --threads 1
config "$warm, $full, $cool"
does train sag --config "$work/c.json" --threads 1 --resume
checks=$((checks + 1))
for file in adapter.safetensors checkpoint.safetensors model/model.safetensors model/config.json; do
  cmp "$work/whole/$file" "$work/run/$file" || wrong "$file: going on gives other bytes"
done
# A stage by itself begins with the model and the adapter that are there, unless its result would be lost.
refuses 2 'is of stage 3, step 12, .*want --resume' \
  train sag --config "$work/c.json" --threads 1 --stage 3
rm "$work/run/checkpoint.safetensors"
does train sag --config "$work/c.json" --threads 1 --stage 3 --json
holds 'stage 3 again' 'd["stages"] == 3'
# Also where the config names an adapter: that is what the first stage begins with.
config "$warm, $full, $cool" '"adapter": "absent.safetensors",'
rm "$work/run/checkpoint.safetensors"
does train sag --config "$work/c.json" --threads 1 --stage 3
rm "$work/run/checkpoint.safetensors"
refuses 1 'absent.safetensors' train sag --config "$work/c.json" --threads 1 --stage 1

# A stage that trains gists, then one that may change all but at rate 0: the weights are those of
# the source, to the bit, and LoRA behind it begins with the model that was written.
still='{"train": "all", "sequence": 128, "batch": 1, "steps": 2, "learning_rate": 0, "floor": 0, "warm_up": 0}'
lora='{"train": "lora", "sequence": 128, "batch": 1, "steps": 2, "learning_rate": 0.01, "floor": 0, "warm_up": 0}'
config "$warm, $still, $lora" '"lora": {"rank": 2},'
does train sag --config "$work/c.json" --threads 1
checks=$((checks + 1))
python3 - "$work/model/model.safetensors" "$work/run/model/model.safetensors" << 'END' ||
import json, struct, sys
def tensors(path):
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    return {name: data[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]]
            for name, t in header.items()}
before, after = (tensors(path) for path in sys.argv[1:])
sys.exit(0 if before == after and len(before) == 47 else 1)
END
  wrong 'weights that were frozen have changed'
does inspect "$work/run/adapter.safetensors" --model "$work/run/model" --json
holds 'LoRA on the written model' 'd["fits_model"] and d["metadata"]["lora_rows"] == "all"'
does generate -f "$work/text" --model "$work/run/model" --adapter "$work/run/adapter.safetensors" \
  --recent 1 --max-tokens 2 --json

# bf16 halves the file.
config "$full" '"model_type": "bf16",'
rm "$work/run/checkpoint.safetensors"
does train sag --config "$work/c.json" --threads 1
[ "$(wc -c < "$work/run/model/model.safetensors")" -lt \
  $(($(wc -c < "$work/whole/model/model.safetensors") * 6 / 10)) ] || wrong 'bf16 is as large as f32'
does generate -f "$work/text" --model "$work/run/model" --adapter "$work/run/adapter.safetensors" \
  --recent 1 --max-tokens 2 --json
finish
