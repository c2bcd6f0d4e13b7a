#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# gmsa_train.sh PROGRAM: a compressor of gmsa trained in both stages, a run that is killed and goes on,
# what was trained under eval, and what is refused (environment variable GISTKV_DATA_DIR).
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
make_tiny_model "$work/model"
model=$work/model
i=0
while [ $i -lt 24 ]; do
  echo "{\"text\": \"Tom saw a ship. It had $i red sails! Was it big? It was big. Tom ran to it.\"}"
  echo "{\"context\": \"Tom has $i cats.\", \"question\": \"How many?\", \"answers\": [\" \", \"$i\"]}" >&3
  i=$((i + 1))
done > "$work/docs.jsonl" 3> "$work/questions.jsonl"

# config STAGES [MORE]: $work/c.json, writing to $work/run.
config() {
  cat > "$work/c.json" << END
{"model": "$model", "output": "$work/run", "seed": 3, "rates": [4, 2], "encoder_layers": 3,
 "data": {"files": ["$work/docs.jsonl"], "cache": "$work/tokens.safetensors"}, "restore": "R",
 "questions": ["$work/questions.jsonl"], "format": "plain", "instruction": "", ${2:-}
 "lora": {"rank": 4, "alpha": 8}, "save_every": 1, "validate_every": 4, "validation_windows": 4,
 "stages": [$1]}
END
}
restoring='{"train": "restoring", "sequence": 64, "batch": 4, "micro_batch": 2, "steps": 12,
            "learning_rate": 0.01}'
answering='{"train": "answering", "sequence": 64, "batch": 4, "micro_batch": 4, "steps": 6,
            "learning_rate": 0.002}'
config "$restoring, $answering"
does train gmsa --config "$work/c.json" --threads 1 --json
holds 'both stages' 'd["stages"] == 2 and d["loss"] > 0 and d["validation"] > 0'
checks=$((checks + 1))
python3 - "$work/run/log.csv" << 'END' || wrong "losses do not fall: $(cat "$work/run/log.csv")"
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
fell = len(rows) == 18
for stage, n in (("1", 4), ("2", 2)):
    losses = [float(r["loss"]) for r in rows if r["stage"] == stage]
    fell = fell and sum(losses[-n:]) < sum(losses[:n])
sys.exit(0 if fell else 1)
END
does inspect "$work/run/adapter.safetensors" --model "$model" --json
holds inspect 'd["method"] == "gmsa" and d["metadata"]["rates"] == "4,2"'
mv "$work/run" "$work/whole"

# goes_on STEP FOLDER: the run, killed without warning at a step, goes on to the bytes in FOLDER.
goes_on() {
  kill_at "$1" "$work/run/log.csv" train gmsa --config "$work/c.json" --threads 1
  does train gmsa --config "$work/c.json" --resume --threads 1 --json
  for file in adapter checkpoint; do
    checks=$((checks + 1))
    cmp "$2/$file.safetensors" "$work/run/$file.safetensors" ||
      wrong "$file: a run that was killed at $1 and went on gives other bytes than $2"
  done
}

# The same run, killed in its second stage.
goes_on 15 "$work/whole"
steps() { sed 1d "$1" | cut -d, -f1-7; }
[ "$(steps "$work/whole/log.csv")" = "$(steps "$work/run/log.csv")" ] ||
  wrong "log.csv differs: $(steps "$work/run/log.csv")"

# The second stage by itself begins with what is there, whatever adapter the config names.
config "$restoring, $answering" '"adapter": "absent.safetensors",'
refuses 2 'is of stage 2, step 6, .*want --resume' \
  train gmsa --config "$work/c.json" --threads 1 --stage 2
rm "$work/run/checkpoint.safetensors"
does train gmsa --config "$work/c.json" --threads 1 --stage 2
rm "$work/run/checkpoint.safetensors"
refuses 1 'absent.safetensors' train gmsa --config "$work/c.json" --threads 1 --stage 1

# A stage moves what it says and nothing else.
config "$restoring"
rm -rf "$work/run"
does train gmsa --config "$work/c.json" --threads 1 --json
checks=$((checks + 1))
python3 - "$work/run/adapter.safetensors" "$work/whole/adapter.safetensors" << 'END' ||
import json, struct, sys
def tensors(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__")
    at = lambda v: slice(8 + n + v["data_offsets"][0], 8 + n + v["data_offsets"][1])
    return {k: data[at(v)] for k, v in header.items()}
one, two = map(tensors, sys.argv[1:])
new = sorted(set(two) - set(one))
sys.exit(0 if all(two[k] == v for k, v in one.items()) and len(new) == 15 and
         all(k.startswith("decoder.") and k.split(".")[-2] in ("q_proj", "k_proj", "v_proj") for k in new)
         else 1)
END
  wrong 'the second stage moves other weights than query, key and value of the decoder'

# The decoder by LoRA, behind that run and killed, and all of its weights.
changed() {  # changed CONDITION: of `d`, the names of the decoder's tensors in the adapter.
  does inspect "$work/run/adapter.safetensors" --model "$model" --json
  holds "what the adapter holds" "(lambda d: $1)(
    [t['name'] for t in d['tensors'] if t['name'].startswith('decoder.')])"
}
for decoder in lora all; do
  config "$(echo "$answering" | sed "s/\"answering\"/\"answering\", \"decoder\": \"$decoder\"/")" \
    "\"adapter\": \"$work/whole/adapter.safetensors\", \"decoder_lora\": {\"rank\": 2, \"alpha\": 4,
     \"targets\": [\"query\", \"down\"]},"
  rm -rf "$work/run" "$work/$decoder"
  does train gmsa --config "$work/c.json" --threads 1 --json
  holds "decoder: $decoder" 'd["loss"] > 0 and d["validation"] > 0'
  if [ $decoder = lora ]; then
    changed 'sum(x.endswith((".lora_A", ".lora_B")) for x in d) == 20 and len(d) == 35'
  else
    changed '{"decoder.embed_tokens.weight", "decoder.norm.weight"} < {*d}
      and not any("lora" in x for x in d)'
  fi
  mv "$work/run" "$work/$decoder"
  goes_on 3 "$work/$decoder"
  does eval qa --data "$work/questions.jsonl" --format plain --limit 2 --max-tokens 4 --method gmsa \
    --adapter "$work/run/adapter.safetensors" --model "$model" --json
  holds "qa with $decoder" 'all(0 <= r["value"] for r in d["rows"])'
done
config "$(echo "$restoring" | sed 's/"restoring"/"restoring", "decoder": "all"/')"
refuses 1 'decoder: is constant in a stage that restores' train gmsa --config "$work/c.json"

# The parts of the method that may be left out.
for part in '"merging": "last",' '"alignment": "none",' '"alignment": "random",' \
  '"merging": "slots",'; do
  config "$restoring" "$part"
  rm -rf "$work/run"
  does train gmsa --config "$work/c.json" --threads 1 --json
  does eval restore --method gmsa --data "$work/docs.jsonl" --limit 2 --length 24 --model "$model" \
    --adapter "$work/run/adapter.safetensors" --prompt R --json
  holds "restore with $part" '{r["metric"] for r in d["rows"]} == {"bleu", "token_accuracy",
    "exact_prefix"} and all(0 <= r["value"] <= 1 for r in d["rows"])'
done

# With slots: killed, it goes on to the same bytes, and stands under all verbs.
mv "$work/run" "$work/slots"
goes_on 6 "$work/slots"
slots=$work/slots/adapter.safetensors
does inspect "$slots" --model "$model" --json
holds 'slots of the file' 'd["metadata"]["merging"] == "slots"'
echo 'Tom saw a ship. It had 2 red sails!' > "$work/short.txt"
does compress "$work/short.txt" -o "$work/short.gkv" --method gmsa --rate 8 --adapter "$slots" \
  --model "$model" --json
holds 'slots of a text' 'd["n_soft"] == -(-d["n_text_tokens"] // 8)'
does ask "$work/short.gkv" 'R' --adapter "$slots" --model "$model" --max-tokens 4 --json
holds 'an answer from slots' 'd["answers"][0]["n_tokens"] > 0'
head -c 300 "$work/docs.jsonl" > "$work/long.txt"
refuses 1 'wants [0-9]* slots, the compressor has 32' compress "$work/long.txt" \
  -o "$work/long.gkv" --method gmsa --rate 4 --adapter "$slots" --model "$model"
config "$restoring" "\"adapter\": \"$slots\","
rm "$work/run/checkpoint.safetensors"
refuses 1 'and both for the same merging' train gmsa --config "$work/c.json"

# Under eval, beside the others.
adapter=$work/whole/adapter.safetensors
soft="--method full,gmsa --adapter $adapter --model $model"
does eval qa --data "$work/questions.jsonl" --format plain --limit 3 --max-tokens 4 $soft --json
holds qa '{(r["metric"], r["method"]) for r in d["rows"]} >= {("em", "gmsa"), ("f1", "gmsa"),
  ("em", "full")} and all(3 < r["value"] <= 4 for r in d["rows"] if r["metric"] == "kv_ratio_bytes"
  and r["method"] == "gmsa")'
does eval ppl --data "$work/docs.jsonl" --limit 2 --length 64 $soft --json
holds ppl '(lambda v: all(x > 1 for x in v["ppl_regular", "gmsa"]) and
  v["kv_bytes_mean", "gmsa"] < v["kv_bytes_mean", "full"])(
  {(r["metric"], r["method"]): [r["value"]] for r in d["rows"]})'
does eval compression --data "$work/docs.jsonl" --limit 2 --length 64 $soft --rate 8 --json
holds compression 'all(r["value"] == 8 and r["settings"]["rate"] == 8 for r in d["rows"]
  if r["method"] == "gmsa" and r["metric"] in ("ratio_tokens", "kv_ratio_bytes"))'
does eval speed --data "$work/docs.jsonl" --limit 1 --length 64 --max-tokens 4 $soft --json
holds speed '{"end_to_end_gain", "prefill_gain", "prefill_gain_counted"} <=
  {r["metric"] for r in d["rows"] if r["method"] == "gmsa"}'
does eval ppl --data "$work/docs.jsonl" --limit 1 --length 64 --method sag,gmsa --model "$model" \
  --compressor "$adapter" --json
says err 'gist rows are untrained'

# What is refused.
refuses 1 '8 layers are asked for, the model has 5' eval ppl --data "$work/docs.jsonl" --length 64 \
  --method gmsa --model "$model"
refuses 1 'rate is 99, want at most the [0-9]* tokens' eval ppl --data "$work/docs.jsonl" \
  --limit 1 --length 64 $soft --rate 99
refuses 2 'rate is 0' eval ppl --data "$work/docs.jsonl" $soft --rate 0
refuses 2 'rate and compressors have no meaning' eval ppl --data x --model "$model" --rate 4
refuses 2 'positions has no meaning for gmsa' eval ppl --data "$work/docs.jsonl" --length 64 \
  --positions 2 $soft
refuses 2 'gmsa has no meaning under choice' eval choice --data x $soft
refuses 2 'method full restores nothing' eval restore --data "$work/docs.jsonl" $soft
config "$restoring" '"colour": 1,'
refuses 1 "key 'colour' is unknown" train gmsa --config "$work/c.json"
config "$restoring" '"merging": "median",'
refuses 1 "'merging' is 'median', want one of mean, last, slots" train gmsa --config "$work/c.json"
for bad in '"rates": [],' '"rates": [4, 0],'; do
  config "$restoring"
  sed -i "s/\"rates\": \[4, 2\],/$bad/" "$work/c.json"
  refuses 1 "field 'rates' is .*, want a list of whole numbers of at least 1" train gmsa --config "$work/c.json"
done
config "$answering"
sed -i -e 's/"format": "plain"/"format": "xml"/' -e "s,$work/run,$work/nowhere," "$work/c.json"
refuses 1 "c.json: field 'format' is 'xml', want one of squad" train gmsa --config "$work/c.json"
[ ! -e "$work/nowhere" ] || wrong 'a refused config left a folder'
config "$restoring"
sed -i 's/"encoder_layers": 3/"encoder_layers": 9/' "$work/c.json"
refuses 1 '9 layers are asked for, the model has 5' train gmsa --config "$work/c.json"
config "$answering, $restoring"
refuses 1 'stages\[1\]: restores behind a stage that answers' train gmsa --config "$work/c.json"
config "$answering"
sed -i 's/"questions": .*"format"/"format"/' "$work/c.json"
refuses 1 "has nothing to learn from, want field 'questions'" train gmsa --config "$work/c.json"
config "$restoring, $answering" "\"adapter\": \"$adapter\","
sed -i 's/"encoder_layers": 3/"encoder_layers": 2/' "$work/c.json"
refuses 1 'has 3 encoder and 1 alignment layers, the config asks for 2 and 1' \
  train gmsa --config "$work/c.json"

# A checkpoint of another model, and one that is cut.
cp -r "$work/whole" "$work/run.good"
rm -rf "$work/run"
mv "$work/run.good" "$work/run"
config "$restoring, $answering"
python3 - "$work/run/checkpoint.safetensors" << 'END'
import re, sys
data = open(sys.argv[1], "rb").read()
open(sys.argv[1], "wb").write(re.sub(rb'("base":")....', rb'\g<1>0000', data, count=1))
END
refuses 1 'checkpoint.safetensors: was trained on another model' \
  train gmsa --config "$work/c.json" --resume
head -c 5000 "$work/whole/checkpoint.safetensors" > "$work/run/checkpoint.safetensors"
refuses 1 'checkpoint.safetensors' train gmsa --config "$work/c.json" --resume
finish
