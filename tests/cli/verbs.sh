#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# verbs.sh PROGRAM: every verb on a small model (environment variable GISTKV_MODEL).
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
  echo 'Ships bring tea, salt and paper. Most of them leave with wool.'
  printf 'The last pier is made of stone'
} > "$text"
question='What is the harbour made of?'

# tokenize
does tokenize "$text" --model "$model" --json
holds tokenize 'd["n_gist"] == 0 and d["n_regular"] == len(d["ids"]) == len(d["pieces"])'
holds tokenize '"".join(d["pieces"]).startswith("The harbour of Lowell")'
does tokenize "$text" --model "$model" --gists 2 --json
holds 'tokenize with gists' 'd["n_sentences"] == 7 and d["n_gist"] == 14 and
  d["n_regular"] + d["n_gist"] == len(d["ids"]) and
  d["pieces"].count("<end_of_sentence_1>") == 7'
does segment "$text" --segmenter uniform:10 --model "$model" --json
holds 'segment uniform' 'd["n_sentences"] > 5 and d["sentences"][0]["closed"]'

# compress
does compress "$text" -o "$work/x.gkv" --model "$model" --json
says err 'untrained'
holds compress 'd["n_sentences"] == 7 and d["n_gist"] == 28'
holds compress 'd["n_text_tokens"] / d["n_gist"] == d["ratio_tokens"]'
holds compress 'd["kv_bytes_held"] < d["kv_bytes_full"] == d["rows_full"] * d["kv_bytes_row"]'
holds compress 'd["ratio_bytes"] == d["kv_bytes_full"] / d["kv_bytes_held"]'
holds compress 'd["seconds"] > 0 and d["peak_rss_bytes"] > 100e6'
cp "$work/out" "$work/first"
does compress "$text" -o "$work/y.gkv" --model "$model" --chunk 3 --json
cp "$work/out" "$work/second"
does compress - -o "$work/z.gkv" --model "$model" --threads 1 < "$text"
says out '^held .* rows, .* a full cache has'
[ -z "$(find "$work" -name '*.partial*')" ] || wrong 'compress left a partial file'
does compress "$text" -o "$work/full.gkv" --model "$model" --method full --json
holds full 'd["kv_bytes_held"] == d["kv_bytes_full"] and d["n_gist"] == 0 and
  d["ratio_tokens"] is None'
[ ! -s "$work/err" ] || wrong "full cache: stderr is not empty: $(cat "$work/err")"
does compress "$text" -o "$work/u.gkv" --model "$model" --method uniform --segmenter uniform:16 \
  --gists 1 --json
holds uniform 'd["n_gist"] == d["n_sentences"] and d["segmenter"] == "uniform:16"'
does compress "$text" -o "$work/w.gkv" --model "$model" --method window --budget 1M --json
holds window 'd["rows_held"] * d["kv_bytes_row"] <= 2 ** 20 and d["n_gist"] == 0'
does compress "$text" -o "$work/w.gkv" --model "$model" --method window --budget match --json
holds 'window, matched' 'd["rows_held"] < d["rows_full"]'
does compress "$text" -o "$work/a.gkv" --model "$model" --max-anchors 9 --gists 2 --json
holds 'max anchors' 'd["n_gist"] == 14 and d["max_anchors"] == 9'
refuses_late() {
  checks=$((checks + 1))
  status=0
  "$gistkv" "$@" > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = 1 ] || wrong "gistkv $*: status $status, want 1"
  [ "$(grep -vc ': note: ' "$work/err")" = 1 ] || wrong "gistkv $*: $(cat "$work/err")"
}
refuses_late compress "$text" -o "$work/no.gkv" --model "$model" --max-anchors 9 --overflow refuse
says err 'budget is 9'
[ ! -e "$work/no.gkv" ] || wrong 'a refused compress left a file'
refuses 2 'want more than the sink' compress "$text" -o "$work/no.gkv" --model "$model" \
  --method window --budget 100000

# inspect
does inspect "$model" --json
holds 'inspect model' 'd["kind"] == "model" and d["config"]["n_layers"] == 30 and
  d["tokenizer"]["chat_template"] == "chatml" and len(d["fingerprint"]) == 16 and
  d["metadata"]["general.architecture"] == "llama"'
does inspect "$work/x.gkv" --model "$model" --json
holds 'inspect context' 'd["checksum"] == "good" and d["fits_model"] and
  d["rule"]["gists"] == 4 and d["method"] == "sag" and
  d["report"]["n_gist"] == 28 and d["rows_held"] == d["report"]["rows_held"]'
does inspect "$work/x.gkv"
says out 'compressed context'
{
  head -c 3000 "$work/x.gkv"
  printf 'x'
  tail -c +3002 "$work/x.gkv"
} > "$work/damaged.gkv"
refuses 1 'damaged.gkv: checksum does not match' inspect "$work/damaged.gkv"
head -c 5000 "$work/x.gkv" > "$work/cut.gkv"
refuses 1 'cut.gkv' ask "$work/cut.gkv" "$question" --model "$model"

# ask: the same rows, the same answer, however they came to be.
same() { does ask "$@" --model "$model" --max-tokens 12 --json; }
same "$text" "$question"
holds ask 'd["answers"][0]["prompt"].startswith("<|im_start|>system\n")'
holds ask 'd["answers"][0]["prompt"].endswith(
  "made of stone\n\nWhat is the harbour made of?<|im_end|>\n<|im_start|>assistant\n")'
holds ask 'd["answers"][0]["stop_reason"] in ("stop_token", "max_tokens") and
  d["answers"][0]["seconds_first_token"] > 0 and d["answers"][0]["tokens_per_second"] > 0'
holds ask 'd["n_sentences"] == 7 and d["kv_bytes_full"] > 0'
if command -v python3 > /dev/null; then
  answers() {
    python3 -c 'import json, sys
print([a["text"] for a in json.load(open(sys.argv[1]))["answers"]])' "$work/out"
  }
  direct=$(answers)
  same "$work/x.gkv" "$question"
  [ "$(answers)" = "$direct" ] || wrong "ask: a file answers $(answers), the text $direct"
  same "$work/y.gkv" "$question"
  [ "$(answers)" = "$direct" ] || wrong "ask: another chunk answers $(answers), want $direct"
  same "$work/x.gkv" 'Who keeps the light?' "$question"
  holds 'two questions' 'len(d["answers"]) == 2'
  case $(answers) in
    *", ${direct#?}") ;;
    *) wrong "ask: behind another question $(answers), want $direct" ;;
  esac
  # A program that knows the format from docs/format.md alone replaces the gists by zeros.
  zero_gists=$(dirname "$0")/../../docs/quality/zero_gists.py
  python3 "$zero_gists" "$work/x.gkv" "$work/zeroed.gkv" || wrong 'zero_gists.py failed'
  does inspect "$work/zeroed.gkv"
  says out '^checksum  *good'
  ! cmp -s "$work/x.gkv" "$work/zeroed.gkv" || wrong 'zero_gists.py changed nothing'
  python3 "$zero_gists" "$work/zeroed.gkv" "$work/again.gkv"
  cmp "$work/zeroed.gkv" "$work/again.gkv" || wrong 'zero_gists.py left gists'
  does ask "$work/zeroed.gkv" "$question" --model "$model" --max-tokens 2
fi
does ask "$work/x.gkv" "$question" --model "$model" --max-tokens 8
[ -s "$work/out" ] || wrong 'ask wrote nothing'
does ask "$work/x.gkv" '[a, b]' --model "$model" --max-tokens 2 --json
holds 'a question in brackets' 'd["answers"][0]["question"] == "[a, b]"'
does ask "$text" "$question" --compare=full,window --model "$model" --max-tokens 6
says out '^method *rows held *KV bytes *ratio'
says out '^full '
says out '^window: '
does ask "$work/x.gkv" "$question" --compare --model "$model" --max-tokens 6 --json
holds compare 'd["compare"][0]["method"] == "full" and len(d["compare"][0]["answers"]) == 1'
refuses 2 'gists is 2, but .* was made with 4' ask "$work/x.gkv" "$question" --model "$model" --gists 2

# Adapters.
if command -v python3 > /dev/null; then
  # adapter FILE N_GIST METADATA NAME...: tensors of [2, 576] float32 under these names.
  adapter() {
    python3 - "$@" << 'END'
import json, struct, sys
path, said, names = sys.argv[1], sys.argv[2], sys.argv[3:]
size = 2 * 576 * 4
header = {"__metadata__": {"n_gist": said}}
for i, name in enumerate(names):
    header[name] = {"dtype": "F32", "shape": [2, 576], "data_offsets": [i * size, (i + 1) * size]}
text = json.dumps(header).encode()
with open(path, "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for i in range(2 * 576 * len(names)):
        f.write(struct.pack("<f", ((i * 37 + len(path)) % 101 - 50) / 500))
END
  }
  adapter "$work/a.safetensors" 2 gist.input
  adapter "$work/other.safetensors" 2 gist.input
  adapter "$work/head.safetensors" 2 gist.head gist.input
  adapter "$work/lora.safetensors" 2 gist.input layers.0.lora_a
  adapter "$work/strange.safetensors" 2 gist.input gist.tail
  adapter "$work/lies.safetensors" 4 gist.input
  does inspect "$work/a.safetensors" --json
  holds 'inspect adapter' 'd["kind"] == "adapter" and d["n_gist"] == 2'
  does compress "$text" -o "$work/t.gkv" --model "$model" --adapter "$work/a.safetensors" --json
  [ ! -s "$work/err" ] || wrong "trained gist rows: $(cat "$work/err")"
  holds 'compress with an adapter' 'd["gists"] == 2 and d["n_gist"] == 14'
  does ask "$work/t.gkv" "$question" --model "$model" --adapter "$work/a.safetensors" --max-tokens 4
  does ask "$text" "$question" --model "$model" --adapter "$work/head.safetensors" --max-tokens 4
  refuses 2 'adapter is missing' ask "$work/t.gkv" "$question" --model "$model"
  refuses 1 'made with another adapter' \
    ask "$work/t.gkv" "$question" --model "$model" --adapter "$work/other.safetensors"
  refuses 2 'made with untrained gist rows' \
    ask "$work/x.gkv" "$question" --model "$model" --adapter "$work/a.safetensors"
  for wrong_one in "lora 'layers.0.lora_a' is unknown" "strange 'gist.tail' is unknown" "lies n_gist"; do
    refuses 1 "${wrong_one#* }" compress "$text" -o "$work/no.gkv" --model "$model" \
      --adapter "$work/${wrong_one%% *}.safetensors" --gists 2
  done
  refuses 1 'holds 2 gists a sentence, asked for are 4' compress "$text" -o "$work/no.gkv" \
    --model "$model" --adapter "$work/a.safetensors" --gists 4
fi

# With the full cache the model is as good as ever: the whole way from text to text works.
printf 'Anna is a baker. Peter is a teacher.' > "$work/jobs"
does ask "$work/jobs" 'What is the job of Peter?' --method full --model "$model" --max-tokens 24
says out 'teacher'

# generate
does generate 'Once upon a time. There was' --model "$model" --gists 2 --max-tokens 24 --json
holds generate 'len(d["ids"]) == len(d["kv_rows"])'
holds 'gists do not count' 'd["stop_reason"] == "stop_token" or d["n_tokens"] == 24'
holds generate 'len(d["prompt_ids"]) == len(d["kv_rows_prompt"])'
holds generate '[i for i in d["prompt_ids"] if i >= 49152] == [49152, 49153]'
holds generate 'd["kv_rows"][-1] == d["rows_held"] and d["n_tokens"] + d["n_gist"] == len(d["ids"])'
does generate 'The capital of France is' --method full --model "$model" --max-tokens 6 --json
holds 'generate full' '"Paris" in d["text"] and
  d["kv_rows"] == list(range(len(d["prompt_ids"]) + 1, len(d["prompt_ids"]) + len(d["ids"]) + 1))'
printf 'One, two, three, four,' > "$work/count"
does generate -f "$work/count" --method full --model "$model" --stop seven
! grep -q seven "$work/out" || wrong "generate --stop seven: $(cat "$work/out")"
does generate Hello --method full --model "$model" --max-tokens 9 --temperature 0.8 --seed 5
cp "$work/out" "$work/once"
does generate Hello --method full --model "$model" --max-tokens 9 --temperature 0.8 --seed 5
cmp -s "$work/out" "$work/once" || wrong 'the same seed gave another text'

# Positions end.
head -c 40000 /dev/zero | tr '\0' '7' > "$work/long"
refuses 1 'the model was trained for .*past-context' \
  compress "$work/long" -o "$work/no.gkv" --model "$model"
refuses 1 'the model was trained for .*past-context' generate -f "$work/long" --model "$model"
refuses 1 'the text is empty' ask - "$question" --model "$model" < /dev/null

# What does not look like English prose.
printf 'no end in sight %.0s' $(seq 40) > "$work/flat"
does compress "$work/flat" -o "$work/flat.gkv" --model "$model" --json
says err 'no sentence end .*max_length'
holds 'no sentence' 'd["n_gist"] == 0 and d["ratio_bytes"] == 1'
does compress "$work/flat" -o "$work/flat.gkv" --model "$model" --segmenter paper,max_length:20 --json
holds 'max_length' 'd["n_sentences"] >= 8 and d["ratio_bytes"] > 1.5'
printf 'bad \377\376 bytes. Then \303' > "$work/bytes"
does ask "$work/bytes" 'Well?' --model "$model" --max-tokens 3 --json
holds 'invalid UTF-8' 'd["n_sentences"] == 1 and len(d["answers"]) == 1'

# chat
printf '%s\n' 'What is the capital of France?' /stats "/save $work/chat.gkv" /undo /undo \
  "/load $work/chat.gkv" /stats /nonsense /quit 'never read' > "$work/input"
checks=$((checks + 1))
status=0
"$gistkv" chat --method full --model "$model" --max-tokens 24 \
  < "$work/input" > "$work/out" 2> "$work/err" || status=$?
[ "$status" = 1 ] || wrong "chat with a line that fails: status $status, want 1: $(cat "$work/err")"
says err '^gistkv: chat: of the lines read, 1 failed'
says out 'Paris'
says out '^positions '
says out '^wrote .*chat.gkv'
says out 'the last question is forgotten'
says out 'there is nothing to undo'
says out '^loaded '
says err '^gistkv: /nonsense is no command'
[ "$(grep -c '^positions ' "$work/out")" = 2 ] || wrong "chat: $(cat "$work/out")"
[ "$(grep '^positions ' "$work/out" | uniq | wc -l)" = 1 ] || wrong "chat: $(cat "$work/out")"
printf 'Hello.\nAnd again.\n/stats\n' > "$work/input"
does chat "$work/x.gkv" --model "$model" --max-tokens 6 < "$work/input"
says out '^positions '
printf 'And of Italy?\n' > "$work/input"
does chat "$work/chat.gkv" --model "$model" --max-tokens 24 < "$work/input"
says out 'Rome'
refuses 1 'is a conversation' ask "$work/chat.gkv" "$question" --compare --model "$model"

# verify
does verify --quick --json
holds verify 'd["passed"] and d["n_failed"] == 0 and d["n_run"] == len(d["rows"]) - d["n_skipped"]'
holds verify 'all(r["error"] <= r["budget"] for r in d["rows"] if r["status"] == "passed")'
finish
