#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# gmsa.sh PROGRAM: soft tokens made, saved and asked (environment variable GISTKV_MODEL).
set -eu
gistkv=$1
model=${GISTKV_MODEL:-}
if ! [ -e "$model" ]; then
  echo "SKIPPED: GISTKV_MODEL is '$model', want the model of examples/setup.sh"
  exit 77
fi
. "$(dirname "$0")/common.sh"

text=$work/text
{
  echo 'The harbour of Lowell was built in 1842. It has three piers and a lighthouse.'
  echo 'Who keeps the light? An old sailor keeps it! He came from the north.'
  printf 'Ships bring tea, salt and paper. Most of them leave with wool.'
} > "$text"
question='What is the harbour made of?'

# compress
does compress "$text" -o "$work/x.gkv" --model "$model" --method gmsa --rate 4 --json
says err 'compressor is untrained'
holds compress 'd["method"] == "gmsa" and d["rate"] == 4 and d["encoder_layers"] == 8'
holds compress 'd["n_soft"] == -(-d["n_text_tokens"] // 4) == d["rows_held"]'
holds compress 'd["kv_bytes_held"] == d["n_soft"] * d["kv_bytes_row"] and
  d["kv_bytes_full"] == d["n_text_tokens"] * d["kv_bytes_row"] and
  d["ratio_bytes"] == d["n_text_tokens"] / d["n_soft"]'
holds compress 'd["soft_bytes"] == d["n_soft"] * 576 * 4 and d["seconds"] > 0'
holds 'a file of soft tokens, without a cache' \
  'd["soft_bytes"] < d["file_bytes"] < d["soft_bytes"] + 4000'
does compress "$text" -o "$work/y.gkv" --model "$model" --method gmsa --chunk 5
says out '^soft  *[0-9]* tokens, one for 4 of the text'
refuses 2 'rate is 5000, want at most the [0-9]* tokens of ' compress "$text" -o "$work/no.gkv" \
  --model "$model" --method gmsa --rate 5000
[ ! -e "$work/no.gkv" ] || wrong 'a refused compress left a file'

# inspect
does inspect "$work/x.gkv" --model "$model" --json
holds inspect 'd["checksum"] == "good" and d["fits_model"] and d["method"] == "gmsa" and
  d["rate"] == "4" and d["n_soft"] == d["report"]["n_soft"] and d["d_soft"] == 576 and
  d["rows_held"] == 0 and d["compressor"] == "untrained"'
size=$(wc -c < "$work/x.gkv")
{
  head -c $((size / 2)) "$work/x.gkv"
  printf 'x'
  tail -c +$((size / 2 + 2)) "$work/x.gkv"
} > "$work/damaged.gkv"
refuses 1 'damaged.gkv: checksum does not match' inspect "$work/damaged.gkv"

# ask: from the text, from the file, and behind another question, the same answer.
answers() {
  python3 -c 'import json, sys
print([a["text"] for a in json.load(open(sys.argv[1]))["answers"]])' "$work/out"
}
does ask "$text" "$question" --method gmsa --model "$model" --max-tokens 12 --json
says err 'compressor is untrained'
holds 'the prompt is the question' 'd["answers"][0]["prompt"] == "What is the harbour made of?"'
holds 'soft tokens are read' 'd["rows_held"] == d["n_soft"] and
  d["kv_bytes_allocated"] >= d["kv_bytes_held"] == d["n_soft"] * d["kv_bytes_row"]'
if command -v python3 > /dev/null; then
  direct=$(answers)
  does ask "$work/x.gkv" "$question" --model "$model" --max-tokens 12 --json
  says err 'compressor is untrained'
  [ "$(answers)" = "$direct" ] || wrong "ask: a file answers $(answers), the text $direct"
  does ask "$work/x.gkv" 'Who keeps the light?' "$question" --model "$model" --max-tokens 12 --json
  case $(answers) in
    *", ${direct#?}") ;;
    *) wrong "ask: behind another question $(answers), want $direct" ;;
  esac
fi
does ask "$work/y.gkv" "$question" --compare --model "$model" --max-tokens 4
says out '^gmsa '
says out '^full: '
refuses 2 'rate is 8, but .* was made with 4' ask "$work/x.gkv" "$question" --model "$model" --rate 8
refuses 2 'method is sag, but .* was made with gmsa' \
  ask "$work/x.gkv" "$question" --model "$model" --method sag
refuses 2 'compare gmsa needs a compressor' \
  ask "$text" "$question" --model "$model" --compare=gmsa
refuses 2 'gmsa is for compress and ask' chat "$work/x.gkv" --model "$model" < /dev/null

# Adapters.
printf '\002\000\000\000\000\000\000\000{}' > "$work/empty.safetensors"
refuses 1 "empty.safetensors: metadata 'format' is ''" compress "$text" -o "$work/no.gkv" \
  --model "$model" --method gmsa --adapter "$work/empty.safetensors"
refuses 2 'made with an untrained compressor' \
  ask "$work/x.gkv" "$question" --model "$model" --adapter "$work/empty.safetensors"
finish
