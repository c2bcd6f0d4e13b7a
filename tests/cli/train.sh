#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# Training as a user sees it: a run, a run that is killed and goes on, stages, and what goes wrong.
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
model=$GISTKV_MODEL
if [ ! -f "$model" ]; then
  echo "SKIPPED: $model is absent"
  exit 77
fi

# Texts of 40 documents; half are JSONL, the others one plain text.
i=0
while [ $i -lt 40 ]; do
  echo "{\"text\": \"Ship number $i left the port. It carried $((i * 7)) barrels of salt! Who sent it? Nobody in the town could say, and the harbour master did not ask. The wind was good.\"}"
  i=$((i + 1))
done > "$work/a.jsonl"
printf 'The old mill stood by the river. Its wheel had not turned for years. ' > "$work/b.txt"
for i in 1 2 3 4; do cat "$work/b.txt" "$work/b.txt" > "$work/c.txt"; mv "$work/c.txt" "$work/b.txt"; done

# config STAGES [MORE]: $work/c.json, writing to $work/run.
config() {
  cat > "$work/c.json" << END
{"model": "$model", "output": "$work/run", "seed": 7, "gists": 2, "recent": 1,
 "data": {"files": ["$work/a.jsonl", "$work/b.txt"], "cache": "$work/tokens.safetensors"},
 "lora": {"rank": 4, "rows": "gists", "dropout": 0.1}, "save_every": 1, "validate_every": 2,
 "validation_windows": 2, ${2:-} "stages": [$1]}
END
}
lora='{"train": "lora", "sequence": 48, "batch": 2, "micro_batch": 1, "steps": 5,
       "learning_rate": 0.001, "warm_up": 2}'

# forget FOLDER: a run there may begin anew.
forget() { rm -f "$work/$1/checkpoint.safetensors"; }

# An uninterrupted run.
config "$lora"
does train sag --config "$work/c.json" --json
says err '^stage 1 step 5/5  loss '
holds 'train' 'd["stages"] == 1 and d["loss"] > 0 and d["validation"] > 0 and d["tokens"] > 300'
# What it has learned is not thrown away for one that was started again.
refuses 2 'run/checkpoint.safetensors is of stage 1, step 5, .*want --resume .*another output' \
  train sag --config "$work/c.json"
refuses 2 'stage is 0, want 1 or more' train sag --config "$work/c.json" --stage 0
refuses 2 'max-minutes is -1.*want 0' train sag --config "$work/c.json" --max-minutes -1
[ "$(wc -l < "$work/run/log.csv")" = 6 ] || wrong "log.csv has not five steps: $(cat "$work/run/log.csv")"
[ "$(wc -l < "$work/run/log.jsonl")" = 5 ] || wrong 'log.jsonl has not five steps'
does inspect "$work/run/adapter.safetensors" --model "$model" --json
holds 'inspect' 'd["n_gist"] == 2 and d["metadata"]["lora_rows"] == "gists" and
  d["metadata"]["step"] == "5" and d["fits_model"]'
mv "$work/run" "$work/whole"

# The same run, killed without warning as soon as it has made two steps.
kill_at 3 "$work/run/log.csv" train sag --config "$work/c.json"
does train sag --config "$work/c.json" --resume --json
checks=$((checks + 1))
for file in adapter checkpoint; do
  cmp "$work/whole/$file.safetensors" "$work/run/$file.safetensors" ||
    wrong "$file: a run that was killed and went on gives other bytes"
done
steps() { sed 1d "$1" | cut -d, -f1-7; }
[ "$(steps "$work/whole/log.csv")" = "$(steps "$work/run/log.csv")" ] ||
  wrong "log.csv differs: $(steps "$work/run/log.csv")"

# Documents take turns among segmenters; the adapter brings the first along.
config "$lora"
sed -e 's/"cache": "[^"]*"/"segmenter": ["paper", "uniform:5"]/' -e "s,$work/run,$work/turns," \
  "$work/c.json" > "$work/turns.json"
first_loss() { sed -n 2p "$work/turns/log.csv" | cut -d, -f4; }
does train sag --config "$work/turns.json"
of_one=$(first_loss)
# So they do in how many recent sentences they keep.
sed 's/"recent": 1/"recent": [1, 0]/' "$work/turns.json" > "$work/recent.json"
forget turns
does train sag --config "$work/recent.json"
does inspect "$work/turns/adapter.safetensors" --model "$model" --json
holds 'the first number of recent sentences' 'd["recent"] == 1'
[ "$(first_loss)" != "$of_one" ] || wrong 'documents do not take turns in recent sentences'
sed 's/"recent": 1/"recent": [1, -1]/' "$work/turns.json" > "$work/recent.json"
refuses 1 "field 'recent' is .1,-1., want a list of whole numbers of at least 0" \
  train sag --config "$work/recent.json"
forget turns
does train sag --config "$work/turns.json"
does inspect "$work/turns/adapter.safetensors" --model "$model" --json
holds 'the first segmenter' 'd["segmenter"] == "paper"'
grep -aq '"segmenter":"paper uniform:5"' "$work/turns/tokens.safetensors" ||
  wrong 'the token file does not say which rules it was made under'
python3 - "$work/turns/tokens.safetensors" << 'END' || wrong 'documents do not take turns among segmenters'
import struct, sys
data = open(sys.argv[1], "rb").read()
numbers = [n for n, in struct.iter_unpack("<i", data[8 + struct.unpack_from("<Q", data)[0]:])]
ends = [0]
for n in numbers:
    ends[-1] += n == -1
    if n == -2:
        ends.append(0)
sys.exit(not all(ends[i] < ends[i + 1] for i in range(0, 40, 2)))
END
# A text in parts: what is read is no target.
echo '{"text": ["The mill stood by the river. What stood there?", " The mill."]}' > "$work/parts.jsonl"
for i in 1 2 3 4 5 6; do cat "$work/parts.jsonl" "$work/parts.jsonl" > "$work/more" && mv "$work/more" "$work/parts.jsonl"; done
sed -e "s,\"files\": \[[^]]*\],\"files\": [\"$work/parts.jsonl\"]," -e 's/"steps": 5/"steps": 1, "flexible": true/' \
  "$work/turns.json" > "$work/parts.json"
forget turns
does train sag --config "$work/parts.json"
forget turns
rm "$work/turns/tokens.safetensors"
sed 's/, " The mill."//' "$work/parts.jsonl" > "$work/more" && mv "$work/more" "$work/parts.jsonl"
refuses 1 'stage 1: the training texts hold nothing to learn' train sag --config "$work/parts.json"
rm "$work/turns/tokens.safetensors"
echo '{"text": ["The mill.", 3]}' > "$work/parts.jsonl"
refuses 1 'parts.jsonl: line 1.*a string or a list of strings' train sag --config "$work/parts.json"
sed 's/"segmenter": \[[^]]*\]/"segmenter": []/' "$work/turns.json" > "$work/none.json"
refuses 1 "field 'segmenter' is an empty list, want a rule or some" train sag --config "$work/none.json"
sed -e 's/"segmenter": \[[^]]*\]/"segmenter": "papr"/' -e "s,$work/turns,$work/nowhere," "$work/turns.json" > "$work/none.json"
refuses 1 "none.json: data: field 'segmenter': .*papr" train sag --config "$work/none.json"
[ ! -e "$work/nowhere" ] || wrong 'a refused config left a folder'

# A teacher: what lies between its hidden states and the model's is added to the loss.
loss_with() {
  config '{"train": "lora", "sequence": 48, "batch": 1, "steps": 2, "learning_rate": 0.001, "warm_up": 1,
           "flexible": true}' "$1"
  sed "s,$work/run,$work/taught," "$work/c.json" > "$work/taught.json"
  forget taught
  does train sag --config "$work/taught.json"
  sed -n 2p "$work/taught/log.csv" | cut -d, -f4
}
alone=$(loss_with '')
mixed=$(loss_with '"distillation": 0.5,')
near=$(loss_with '"hidden_distillation": 1,')
nearer=$(loss_with '"distillation": 0.5, "hidden_distillation": 2,')
python3 -c "import sys; a, m, n, b = map(float, sys.argv[1:])
sys.exit(not (n > a + 1e-3 and m != a and abs(b - m - 2 * (n - a)) < 1e-3 * (n - a)))" \
  "$alone" "$mixed" "$near" "$nearer" || wrong "losses with teachers: $alone $mixed $near $nearer"
mv "$work/taught" "$work/unkilled_taught"
kill_at 2 "$work/taught/log.csv" train sag --config "$work/taught.json"
does train sag --config "$work/taught.json" --resume
cmp "$work/unkilled_taught/adapter.safetensors" "$work/taught/adapter.safetensors" ||
  wrong 'with a teacher: a run that was killed and went on gives other bytes'
checks=$((checks + 2))

# LoRA on gist rows goes on from LoRA on all rows, which stays as it is: uninterrupted, and killed.
small='{"train": "lora", "sequence": 48, "batch": 1, "steps": 4, "learning_rate": 0.001, "warm_up": 1}'
config "$small"
sed -e "s,$work/run,$work/first," -e 's/"rows": "gists"/"rows": "all"/' "$work/c.json" > "$work/first.json"
does train sag --config "$work/first.json"
config "$small" "\"adapter\": \"$work/first/adapter.safetensors\","
sed "s,$work/run,$work/both," "$work/c.json" > "$work/both.json"
does train sag --config "$work/both.json"
does inspect "$work/both/adapter.safetensors" --model "$model" --json
holds 'LoRA of both kinds' 'd["metadata"]["lora_rows"] == "both" and d["fits_model"] and
  sum(t["name"].endswith(".gist_lora_a") for t in d["tensors"]) == 210'
cat > "$work/tensors.py" << 'END'
import json, struct
def read(path):
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    return {k: data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]
            for k, v in json.loads(data[8:8 + n]).items() if k != "__metadata__"}
END
PYTHONPATH=$work python3 - "$work/first/adapter.safetensors" "$work/both/adapter.safetensors" << 'END' ||
import sys
from tensors import read
first, both = map(read, sys.argv[1:])
names = [k for k in first if ".lora_" in k]
sys.exit(not (len(names) == 420 and all(first[k] == both[k] for k in names) and
              first["gist.input"] != both["gist.input"]))
END
  wrong 'the frozen LoRA is not in the adapter as it was'
mv "$work/both" "$work/unkilled"
kill_at 2 "$work/both/log.csv" train sag --config "$work/both.json"
does train sag --config "$work/both.json" --resume
cmp "$work/unkilled/adapter.safetensors" "$work/both/adapter.safetensors" ||
  wrong 'LoRA on gist rows behind LoRA on all rows: a run that was killed and went on gives other bytes'
sed -e 's/"rows": "gists"/"rows": "all"/' -e "s,$work/first/ad,$work/both/ad," "$work/both.json" > "$work/c.json"
forget both
refuses 1 'the adapter has LoRA on gist rows' train sag --config "$work/c.json"
sed 's/"rank": 4/"rank": 4, "alpha": 3/' "$work/both.json" > "$work/c.json"
sed -i "s,$work/first/ad,$work/both/ad," "$work/c.json"
refuses 1 "the adapter's LoRA has alpha 8.000, the config 3.000" train sag --config "$work/c.json"
sed 's/"rank": 4/"rank": 4, "alpha": 0/' "$work/both.json" > "$work/c.json"
refuses 1 "'alpha' is 0.*, want a positive number" train sag --config "$work/c.json"
# Both learn together, from there, under a teacher that has the LoRA on all rows as it was there:
# uninterrupted, and killed.
sed -e 's/"rows": "gists"/"rows": "both", "all_rows": {"rank": 4}/' -e "s,$work/first/ad,$work/both/ad," \
  -e 's/"warm_up": 1/&, "flexible": true/' -e 's/"gists": [0-9]/"hidden_distillation": 1, &/' \
  -e "s,$work/both\",$work/together\"," "$work/both.json" > "$work/together.json"
[ "$(grep -c 'hidden_distillation\|flexible' "$work/together.json")" = 2 ] || wrong 'the config has no teacher'
does train sag --config "$work/together.json"
does inspect "$work/together/adapter.safetensors" --model "$model" --json
holds 'both kinds, learned together' 'd["metadata"]["lora_rows"] == "both" and d["fits_model"]'
PYTHONPATH=$work python3 - "$work/both/adapter.safetensors" "$work/together/adapter.safetensors" << 'END' ||
import sys
from tensors import read
before, after = map(read, sys.argv[1:])
same = [k for k in before if before[k] == after[k]]
sys.exit(not (before.keys() == after.keys() and not same))
END
  wrong 'of two LoRA that learn together one stayed as it was'
mv "$work/together" "$work/unkilled_together"
kill_at 2 "$work/together/log.csv" train sag --config "$work/together.json"
does train sag --config "$work/together.json" --resume
cmp "$work/unkilled_together/adapter.safetensors" "$work/together/adapter.safetensors" ||
  wrong 'two LoRA that learn together: a run that was killed and went on gives other bytes'
# Where that LoRA is large, its teacher is the one of a run in which it is frozen: as much is added to the loss.
config "$small"
sed -e "s,$work/run,$work/loud," -e 's/"rows": "gists"/"rows": "all"/' -e 's/0.001/0.01/' "$work/c.json" \
  > "$work/loud.json"
does train sag --config "$work/loud.json"
first_loss() {  # SED EXPRESSION...
  sed -e "s,$work/first/ad,$work/loud/ad,; s,$work/both\",$work/first_loss\"," \
    -e 's/, "dropout": 0.1//; s/"warm_up": 1/&, "flexible": true/' "$@" "$work/both.json" > "$work/c.json"
  forget first_loss
  does train sag --config "$work/c.json"
  sed -n 2p "$work/first_loss/log.csv" | cut -d, -f4
}
taught='s/"gists": [0-9]/"hidden_distillation": 1, &/'
learned='s/"rows": "gists"/"rows": "both", "all_rows": {"rank": 4}/'
losses="$(first_loss -e "") $(first_loss -e "$taught") $(first_loss -e "$learned") \
  $(first_loss -e "$learned" -e "$taught")"
# shellcheck disable=SC2086
python3 -c "import sys; a, b, c, d = map(float, sys.argv[1:])
sys.exit(not (b > a + 1e-3 and abs((d - c) - (b - a)) < 0.05 * (b - a)))" $losses ||
  wrong "losses with frozen and learning LoRA, without and with a teacher: $losses"
checks=$((checks + 1))
# At a rate of its own, here none.
sed -e 's/"learning_rate"/"all_rows_learning_rate": 0, &/' -e "s,$work/together\",$work/slow\"," \
  "$work/together.json" > "$work/slow.json"
does train sag --config "$work/slow.json"
PYTHONPATH=$work python3 - "$work/both/adapter.safetensors" "$work/slow/adapter.safetensors" << 'END' ||
import sys
from tensors import read
before, after = map(read, sys.argv[1:])
sys.exit(not all((before[k] == after[k]) == (".lora_" in k) for k in before))
END
  wrong 'the LoRA on all rows did not learn at its own rate'
sed 's/"learning_rate"/"all_rows_learning_rate": 1e-4, &/' "$work/both.json" > "$work/c.json"
refuses 1 'stages\[0\].all_rows_learning_rate is given: "rows": "both" has it' train sag --config "$work/c.json"
sed 's/"learning_rate": 0.001/"learning_rate": 0, "gist_learning_rate": 0.1/' "$work/both.json" > "$work/c.json"
refuses 1 "field 'learning_rate' is 0, want more beside another rate" train sag --config "$work/c.json"
sed 's/, "all_rows": {"rank": 4}//' "$work/together.json" > "$work/c.json"
refuses 1 'lora: all_rows is missing' train sag --config "$work/c.json"
sed 's/"both"/"gists"/' "$work/together.json" > "$work/c.json"
refuses 1 'lora: all_rows is given' train sag --config "$work/c.json"
sed 's/"all_rows": {"rank": 4}/"all_rows": {"rank": 4, "alpha": 3}/' "$work/together.json" > "$work/c.json"
forget together
refuses 1 "the adapter's LoRA has alpha 8.000, the config 3.000" train sag --config "$work/c.json"
printf 'The mill stood by the river. It was old. Nobody came.' > "$work/text"
does ask "$work/text" 'Who?' --compare --model "$model" --adapter "$work/both/adapter.safetensors" --json

# LoRA on no map, or on one that no block has.
config "$lora"
for targets in '[]' '["querry"]'; do
  sed "s/\"rank\": 4,/\"rank\": 4, \"targets\": $targets,/" "$work/c.json" > "$work/none.json"
  refuses 1 "field 'targets' is .*, want query, key, value, output, gate, up and down" \
    train sag --config "$work/none.json"
done

# What was trained is what the other verbs compute with.
does compress "$work/text" -o "$work/t.gkv" --model "$model" --adapter "$work/run/adapter.safetensors" \
  --json
holds 'compress with LoRA' 'd["n_gist"] == 6 and d["segmenter"] == "paper" and d["recent"] == 1'
does compress "$work/text" -o "$work/t.gkv" --model "$model" --adapter "$work/run/adapter.safetensors" \
  --recent 0 --segmenter paper,before --json
holds 'compress under another rule' 'd["segmenter"] == "paper,before" and d["recent"] == 0'

# Gists every so many tokens, where these were trained first; a method that is asked for stays itself.
sed 's/"segmenter": \[[^]]*\]/"segmenter": ["uniform:5", "paper"]/' "$work/turns.json" > "$work/uniform.json"
forget turns
does train sag --config "$work/uniform.json"
for method in '' '--method uniform' '--method sag'; do
  # shellcheck disable=SC2086
  does compress "$work/text" -o "$work/t.gkv" $method --model "$model" \
    --adapter "$work/turns/adapter.safetensors" --json
  [ "$method" = '--method sag' ] && want='("sag", "paper")' || want='("uniform", "uniform:5")'
  holds "an adapter of uniform gists, $method" "(d['method'], d['segmenter']) == $want"
done

# Stage after stage, from one config.
gists='{"train": "gists", "sequence": 48, "batch": 1, "steps": 2, "learning_rate": 0.01, "warm_up": 1}'
cool='{"train": "lora", "sequence": 48, "batch": 1, "steps": 2, "schedule": "linear",
       "learning_rate": 0.0005, "floor": 0, "warm_up": 0, "flexible": true}'
rm -rf "$work/run"
config "$gists, $lora, $cool"
does train sag --config "$work/c.json" --json
holds 'stages' 'd["stages"] == 3'
[ "$(sed 1d "$work/run/log.csv" | cut -d, -f1 | sort -n | uniq -c | tr -s ' ' | tr '\n' ';')" = \
  ' 2 1; 5 2; 2 3;' ] || wrong "steps of stages: $(cat "$work/run/log.csv")"

# What goes wrong is said, and the last checkpoint stays.
cp "$work/run/checkpoint.safetensors" "$work/good"
config "$lora" '"colour": 1,'
refuses 1 "key 'colour' is unknown" train sag --config "$work/c.json"
config '{"train": "everything"}'
refuses 1 "field 'train' is 'everything', want one of gists, lora, all" train sag --config "$work/c.json"
config "$lora, $gists"
refuses 1 'stages\[1\]: follows one of LoRA' train sag --config "$work/c.json"
for teacher in '"distillation": 0.5,' '"hidden_distillation": 2,'; do
  config "$lora" "$teacher"
  refuses 1 'the teacher knows no gists' train sag --config "$work/c.json"
done
config "$lora" '"hidden_distillation": -1,'
refuses 1 "field 'hidden_distillation' is -1" train sag --config "$work/c.json"
refuses 1 'absent.json' train sag --config "$work/absent.json"
refuses 2 "METHOD is 'magic'" train magic --config "$work/c.json"
config "$lora"
sed -i -e 's/a\.jsonl/absent.jsonl/' -e "s,$work/run,$work/other," "$work/c.json"
refuses 1 'absent.jsonl' train sag --config "$work/c.json"
config "$lora"
refuses 2 'stage is 4' train sag --config "$work/c.json" --stage 4

# A disk that is full: a limit on the size of files stands for it.
config "$gists, $lora, $(echo "$cool" | sed 's/"steps": 2/"steps": 3/')"
(
  trap '' XFSZ
  ulimit -f 16
  status=0
  "$gistkv" train sag --config "$work/c.json" --resume > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = 1 ] && grep -q 'gistkv: .*\(large\|space\)' "$work/err"
) || wrong "full disk: $(cat "$work/err")"
checks=$((checks + 1))
cmp "$work/good" "$work/run/checkpoint.safetensors" || wrong 'a full disk cost the last checkpoint'

# A loss that is no number.
if command -v python3 > /dev/null; then
  python3 - "$work/nan.safetensors" << 'END'
import json, struct, sys
header = json.dumps({"gist.input": {"dtype": "F32", "shape": [2, 576], "data_offsets": [0, 4608]}})
header += " " * (-len(header) % 8)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(header)) + header.encode() + struct.pack("<f", float("nan")) * 1152)
END
  config "$lora" "\"adapter\": \"$work/nan.safetensors\","
  forget run
  status=0
  "$gistkv" train sag --config "$work/c.json" > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = 1 ] || wrong "a NaN: status $status"
  says err 'step 1: the loss is -*nan'
  # Nothing was learned, so nothing is in the way of a run with a better config.
  config "$lora"
  does train sag --config "$work/c.json"
fi
finish
