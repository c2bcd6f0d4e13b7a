#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# usage.sh PROGRAM: what needs no model: help, wrong usage, sentences, broken files.
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"

does --version
says out '^gistkv [0-9]*\.[0-9]*\.[0-9]*$'
does --manual
says out '^\.TH GISTKV'
says out 'segmenter'
does --completion
says out 'complete .*gistkv'
! command -v bash > /dev/null || bash -n "$work/out" || wrong '--completion is no bash'
does --help
for verb in segment tokenize compress ask generate chat inspect verify eval plot; do
  says out "^  $verb "
done
for verb in segment tokenize compress ask generate chat inspect verify eval plot; do
  does $verb --help
  [ "$(tail -n 2 "$work/out" | head -n 1)" = 'Example:' ] ||
    [ "$(tail -n 3 "$work/out" | head -n 1)" = 'Example:' ] ||
    wrong "$verb --help does not end with an example"
  says out "^  .*gistkv $verb"
done

printf 'One. Two? Three!\nFour' > "$work/text"
model=$work/model.gguf
printf 'no model' > "$model"

# Wrong usage.
refuses 2 'verb is missing' < /dev/null
refuses 2 "unknown verb 'comprss', did you mean compress?" comprss
refuses 2 'unknown option --segmentr, did you mean --segmenter?' segment "$work/text" --segmentr paper
refuses 2 'unknown option --frobnicate' segment "$work/text" --frobnicate
refuses 2 'FILE' segment
refuses 2 "'more' was not expected" segment "$work/text" more
refuses 2 'segmenter' segment "$work/text" --segmenter papr
refuses 2 'segmenter' segment "$work/text" --segmenter uniform:0
refuses 2 'model is missing' segment "$work/text" --segmenter uniform:8
refuses 2 'model is missing' tokenize "$work/text"
refuses 2 'model is missing' compress "$work/text" -o "$work/x.gkv"
refuses 2 'output' compress "$work/text" --model "$model"
refuses 2 "output is '-'" compress "$work/text" -o - --model "$model"
refuses 2 'QUESTION' ask "$work/text" --model "$model"
refuses 2 'question is empty' ask "$work/text" '' --model "$model"
refuses 2 'gists is 0, want 1 to' compress "$work/text" -o "$work/x.gkv" --model "$model" --gists 0
refuses 2 'gists is -3' compress "$work/text" -o "$work/x.gkv" --model "$model" --gists -3
refuses 2 'gists' compress "$work/text" -o "$work/x.gkv" --model "$model" --gists four
refuses 2 'recent is -1' compress "$work/text" -o "$work/x.gkv" --model "$model" --recent -1
refuses 2 'sink is -1' compress "$work/text" -o "$work/x.gkv" --model "$model" --sink -1
refuses 2 'chunk is 0' compress "$work/text" -o "$work/x.gkv" --model "$model" --chunk 0
refuses 2 "method is 'sgx', want sag, gmsa, full, window or uniform" \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method sgx
refuses 2 'method evict is there for eval only, want sag' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method evict
refuses 2 'rate is 0, want 1 or more' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method gmsa --rate 0
refuses 2 'rate is -4' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method gmsa --rate -4
refuses 2 'rate has no meaning under --method sag' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --rate 4
refuses 2 'gists has no meaning under --method gmsa' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method gmsa --gists 2
refuses 2 'segmenter has no meaning under --method gmsa' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method gmsa --segmenter english
refuses 2 'gmsa is for compress and ask' generate Hello --model "$model" --method gmsa
refuses 2 'gmsa is for compress and ask' chat --model "$model" --method gmsa
refuses 2 "cache-type is 'f99', want .*f32" \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --cache-type f99
refuses 2 'window needs --budget' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method window
refuses 2 "budget is 'lots'" \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method window --budget lots
refuses 2 'gists has no meaning under --method full' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method full --gists 2
refuses 2 'overflow needs --max-anchors' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --overflow drop
refuses 2 'max-anchors is 4, want 5 or more' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --max-anchors 4
refuses 2 "overflow is 'burn'" \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --max-anchors 9 --overflow burn
refuses 2 'want uniform:N' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --method uniform --segmenter paper
refuses 2 'threads is -1' \
  compress "$work/text" -o "$work/x.gkv" --model "$model" --threads -1
refuses 2 'either a PROMPT or -f FILE' generate --model "$model"
refuses 2 'either a PROMPT or -f FILE' generate Hello -f "$work/text" --model "$model"
refuses 2 'temperature' generate Hello --model "$model" --temperature -1
refuses 2 'top_p' generate Hello --model "$model" --top-p 0
refuses 2 'max-tokens is 0' generate Hello --model "$model" --max-tokens 0
refuses 2 "backend is 'abacus', this program was built with " verify --backend abacus
refuses 2 'threads is -1' verify --threads -1

# What is not there, or not what it should be.
refuses 1 'absent: cannot open' segment "$work/absent"
refuses 1 'directory' segment "$work"
refuses 1 'absent: cannot open' compress "$work/absent" -o "$work/x.gkv" --model "$model"
refuses 1 'cannot write' compress "$work/text" -o "$work/no/x.gkv" --model "$model"
refuses 1 'model.gguf' compress "$work/text" -o "$work/x.gkv" --model "$model"
refuses 1 'none.gguf' compress "$work/text" -o "$work/x.gkv" --model "$work/none.gguf"
refuses 1 'config.json' compress "$work/text" -o "$work/x.gkv" --model "$work"
refuses 1 'model.gguf' tokenize "$work/text" --model "$model"
refuses 1 'empty' compress - -o "$work/x.gkv" --model "$model" < /dev/null
refuses 1 'prompt is empty' generate '' --model "$model"
refuses 1 'model.gguf' inspect "$model"
refuses 1 'absent' inspect "$work/absent"
printf 'GKVCACHE and then nothing' > "$work/short.gkv"
refuses 1 'short.gkv' inspect "$work/short.gkv"
refuses 1 'short.gkv' chat "$work/short.gkv" --model "$model"
# A context that was cut or damaged, however near its beginning, is no text.
printf 'GKVC' > "$work/cut"
printf 'GKVCBCHE and more' > "$work/flipped.gkv"
: > "$work/nothing.gkv"
for context in cut flipped.gkv nothing.gkv; do
  refuses 1 "$context: " ask "$work/$context" 'What?' --model "$model"
done
[ ! -e "$work/x.gkv" ] || wrong 'a refused compress left a file'

# Sentences.
does segment "$work/text"
printf 'One.\nTwo?\nThree!\nFour\n' | cmp -s - "$work/out" || wrong "segment: $(cat "$work/out")"
does segment --json - < "$work/text"
holds segment '[(s["begin"], s["end"], s["closed"]) for s in d["sentences"]] ==
  [(0, 5, True), (5, 10, True), (10, 17, True), (17, 21, False)]'
holds segment 'd["rule"] == "paper" and d["n_sentences"] == 3 and d["n_bytes"] == 21'
does segment --json - < /dev/null
holds 'segment of nothing' 'd["sentences"] == []'
printf 'bad \377\376 bytes. Then \303' > "$work/bytes"
does segment --json "$work/bytes"
holds 'segment of bytes' '[(s["begin"], s["end"]) for s in d["sentences"]] == [(0, 14), (14, 20)]'
for rule in paper unicode english paper,before english,before; do
  does segment --json --segmenter $rule "$work/text"
  holds "segment $rule" 'd["sentences"][0]["begin"] == 0 and d["sentences"][-1]["end"] == 21 and
    all(a["end"] == b["begin"] for a, b in zip(d["sentences"], d["sentences"][1:]))'
done
head -c 1000000 /dev/zero | tr '\0' 'a' > "$work/long"
does segment --json "$work/long"
holds 'segment of one long word' 'd["sentences"] ==
  [{"begin": 0, "end": 1000000, "closed": False}]'
finish
