#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# adapter.sh PROGRAM: the adapters that come with the examples fit their model, bring their layout or
# rates, and read better than gists and soft tokens that were not trained. Environment: GISTKV_MODEL.
set -eu
gistkv=$1
model=${GISTKV_MODEL:-}
root=$(cd "$(dirname "$0")/../.." && pwd)
adapter=$root/examples/adapters/smollm2-135m-instruct-gists/adapter.safetensors
if ! [ -f "$model" ]; then
  echo "SKIPPED: GISTKV_MODEL is '$model', want the model of examples/setup.sh"
  exit 77
fi
. "$(dirname "$0")/common.sh"

does inspect "$adapter" --model "$model" --json
holds 'the adapter' 'd["fits_model"] and d["metadata"]["lora_rows"] == "both" and
  (d["n_gist"], d["recent"], d["sink"], d["segmenter"]) ==
  (4, 3, 1, "paper,before,min_bytes:160,max_length:80")'

# ratio METHOD AGAINST: of perplexities.
ratio='[r["value"] for r in d["rows"] if r["metric"] == "ppl_ratio" and r["method"] == "%s" and
  r["settings"]["against"] == "%s"][0]'
does eval ppl --method base,full,sag --data "$root/LICENSE" --limit 1 --length 1024 \
  --adapter "$adapter" --model "$model" --json
holds 'trained gists' "all(r['settings']['recent'] == 3 for r in d['rows']) and
  $(printf "$ratio" sag base) < 1.25"
holds 'LoRA on all rows is another model' "0 < abs($(printf "$ratio" full base) - 1) < 0.05"
does eval ppl --method full,sag --recent 3 --segmenter paper,before,min_bytes:160,max_length:80 \
  --data "$root/LICENSE" --limit 1 --length 1024 --model "$model" --json
holds 'untrained gists' "$(printf "$ratio" sag full) > 1.3"

# Ten questions in pieces of eight tokens: most answers of the full cache come out of the gists, and none
# out of zeros in their place.
licence=/usr/share/common-licenses/BSD
if command -v python3 > /dev/null && [ -f $licence ]; then
  checks=$((checks + 1))
  python3 "${adapter%/*}/questions.py" "$gistkv" "$model" "$adapter" 8 10 > "$work/out"
  awk '{ right[$1] = $2; shared[$1] = $NF }
    END { exit !(right["full"] >= 9 && shared["gists"] >= 8 && right["zeroed"] < 3) }' "$work/out" ||
    wrong "ten questions: $(cat "$work/out")"
else
  echo "no python3 or no $licence: no question is asked"
fi

# Under every method it changes the model as far as it is one of all rows.
head -c 600 "$root/LICENSE" > "$work/text"
short="--max-tokens 12 --adapter $adapter --model $model --json"
does ask "$work/text" 'What is it?' $short --compare
cp "$work/out" "$work/compared"
does ask "$work/text" 'What is it?' $short --method full
holds 'the full cache with the adapter' "d['answers'] and [a['text'] for a in d['answers']] ==
  [a['text'] for a in json.load(open('$work/compared'))['compare'][0]['answers']]"
does compress "$work/text" -o "$work/full.gkv" --method full --model "$model"
refuses 1 'was made without this adapter' ask "$work/full.gkv" 'What?' --adapter "$adapter" \
  --model "$model"

soft=$root/examples/adapters/smollm2-135m-instruct-gmsa/adapter.safetensors
does inspect "$soft" --model "$model" --json
holds 'the compressor' 'd["method"] == "gmsa" and d["metadata"]["rates"] == "4,8" and
  d["metadata"]["decoder_lora_alpha"].startswith("32")'
soft_ppl="eval ppl --method full,gmsa --rate 4 --data $root/LICENSE --limit 1 --length 256 --model $model"
does $soft_ppl --adapter "$soft" --json
holds 'trained soft tokens' "$(printf "$ratio" gmsa full) < 2.6"
does $soft_ppl --json
holds 'untrained soft tokens' "$(printf "$ratio" gmsa full) > 3"

finish
