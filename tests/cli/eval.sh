#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# eval.sh PROGRAM: eval and plot: what they refuse, and every task on samples made here (environment
# variable GISTKV_MODEL).
set -eu
gistkv=$1
model=${GISTKV_MODEL:-}
. "$(dirname "$0")/common.sh"

# Wrong usage, which needs no model.
printf 'no model' > "$work/none.gguf"
none="--model $work/none.gguf"
printf 'A text.\n' > "$work/text.txt"
refuses 2 "task is 'perplexity', want one of ppl" eval perplexity --data "$work/text.txt" $none
refuses 2 'model is missing' eval ppl --data "$work/text.txt"
refuses 2 'data is missing' eval ppl $none
refuses 2 "method is 'sgx', want a list of full, base, sag" eval ppl --method full,sgx --data x $none
refuses 2 'method names full twice' eval ppl --method full,full --data x $none
refuses 2 'limit is -1' eval ppl --limit -1 --data x $none
refuses 2 'windows is 0, want 1' eval ppl --windows 0 --data x $none
refuses 2 'length is 3' eval ppl --length 3 --data x $none
refuses 2 'unknown option --max-anchors' eval ppl --max-anchors 9 --data x $none
refuses 2 'positions is -1, want 0' eval ppl --positions -1 --data x $none
refuses 2 'positions is 99, want 0' eval ppl --positions 99 --length 64 --data x $none
refuses 2 'max-tokens is -1, want 0' eval qa --max-tokens -1 --data x $none
does eval --help
says out 'default full,sag'
! grep -q -e '--max-anchors\|--overflow\|default sag' "$work/out" ||
  wrong "eval --help lists what eval refuses: $(cat "$work/out")"
refuses 2 'budget match is what eval does' eval ppl --budget match --data x $none
refuses 2 "budget is 'lots'" eval ppl --budget lots --data x $none
refuses 1 'none.gguf' eval ppl --data "$work/text.txt" $none
refuses 2 'o is missing' plot "$work/text.txt"
refuses 2 "kind is 'pie', want auto" plot "$work/text.txt" -o "$work/x.svg" --kind pie
refuses 1 'absent.json: cannot open' plot "$work/absent.json" -o "$work/x.svg"
refuses 1 'text.txt:1: is no JSON' plot "$work/text.txt" -o "$work/x.svg"
printf '{"rows": []}\n' > "$work/empty.json"
refuses 1 'nothing to draw' plot "$work/empty.json" -o "$work/x.svg"
refuses 1 'nothing for --kind needle' plot "$work/empty.json" -o "$work/x.svg" --kind needle
printf 'step,loss\n1,2.5\n2\n' > "$work/bad.csv"
refuses 1 'bad.csv:3: has 1 cells, expected 2' plot "$work/bad.csv" -o "$work/x.svg"
plot_of() { printf '%s\n' "$1" > "$work/odd.json"; }
plot_of '{"rows": [1]}'
refuses 1 'odd.json: row 1 is 1, expected an object' plot "$work/odd.json" -o "$work/x.svg"
plot_of '{"rows": 3}'
refuses 1 "odd.json: field 'rows' is 3, expected a list" plot "$work/odd.json" -o "$work/x.svg"
plot_of '{"rows": [{"metric": "needle_accuracy_at_depth", "method": "sag", "value": 1}]}'
refuses 1 "odd.json: row 1: field 'settings' is missing" plot "$work/odd.json" -o "$work/x.svg"
plot_of '{"rows": [{"metric": "ppl_by_position", "method": 3}]}'
refuses 1 "odd.json: row 1: field 'method' is 3, expected a string" \
  plot "$work/odd.json" -o "$work/x.svg"
plot_of '{"kv_rows": [1, "two"]}'
refuses 1 "odd.json: field 'kv_rows' holds .*two" plot "$work/odd.json" -o "$work/x.svg"
[ ! -e "$work/x.svg" ] || wrong 'a refused plot left a file'

if ! [ -e "$model" ]; then
  echo "SKIPPED: GISTKV_MODEL is '$model', want the model of examples/setup.sh"
  [ $failed = 0 ] || exit 1
  exit 77
fi

# draws FILE... : a picture with something in it, and no piece of one left behind.
draws() {
  if ! command -v gnuplot > /dev/null; then
    [ -n "${said_no_gnuplot:-}" ] || echo 'no gnuplot: pictures are not drawn'
    said_no_gnuplot=1
    return 0
  fi
  rm -f "$work/x.svg"
  does plot "$@" -o "$work/x.svg"
  checks=$((checks + 1))
  grep -q '</svg>' "$work/x.svg" || wrong "plot $*: no picture"
}

# Texts of sentences of many lengths.
mkdir "$work/books"
for book in 1 2 3; do
  i=0
  while [ $i -lt 60 ]; do
    i=$((i + 1))
    printf 'Book %d, ship %d leaves the harbour with salt and wool. ' $book $i
    [ $((i % 3)) = 0 ] || printf 'It comes back in %d days! ' $((i * book))
    [ $((i % 7)) != 0 ] || printf 'Who waits for it, and why,\nnobody on the pier has ever said?\n\n'
  done > "$work/books/$book.txt"
done

# Bad samples.
refuses 1 'books.*no document has 99999 tokens' \
  eval ppl --data "$work/books" --length 99999 --model "$model"
refuses 1 'absent: cannot open' eval ppl --data "$work/absent" --model "$model"
mkdir "$work/nothing"
refuses 1 'nothing: holds no .txt' eval ppl --data "$work/nothing" --model "$model"
printf '{"text": "A."}\n{"text": 3}\n' > "$work/bad.jsonl"
refuses 1 "bad.jsonl:2: field 'text' is no string" eval ppl --data "$work/bad.jsonl" --model "$model"
printf '{"context": "A.", "question": "B?", "answers": ["C"]}\n{"context": "A."\n' > "$work/bad.jsonl"
refuses 1 'bad.jsonl:2: JSON' eval qa --data "$work/bad.jsonl" --model "$model"
printf '{"context": "A.", "answers": ["C"]}\n' > "$work/bad.jsonl"
refuses 1 "bad.jsonl:1: field 'question' is missing" \
  eval longqa --data "$work/bad.jsonl" --model "$model"
squad='{"paragraphs": [{"context": "A.", "qas": [{"question": "Who?", "answers": [%s]}]}]}\n'
# shellcheck disable=SC2059
printf "$squad" '[]' > "$work/bad.jsonl"
refuses 1 "bad.jsonl:1: question 'Who?': an answer is an empty list" \
  eval qa --format squad --data "$work/bad.jsonl" --model "$model"
printf '{"context": "A.", "answers": ["C"]}\n' > "$work/bad.jsonl"
refuses 2 "format is 'x', want one of squad" eval qa --format x --data "$work/bad.jsonl" --model "$model"
printf '{"question": "A?", "choices": ["1", "2"], "answer": "C"}\n' > "$work/bad.jsonl"
refuses 1 'bad.jsonl:1: answer "C" names none of 2' \
  eval choice --data "$work/bad.jsonl" --model "$model"
: > "$work/bad.jsonl"
refuses 1 'bad.jsonl: has no samples' eval choice --data "$work/bad.jsonl" --model "$model"
for i in 1 2 3 4 5 6 7 8 9 10; do cat "$work"/books/*.txt; done > "$work/long.txt"
refuses 1 'long.txt: .* positions (gists included) are needed, the model was trained for 8192' \
  eval ppl --data "$work/long.txt" --length 8300 --model "$model"
printf 'torn' > "$work/records"
refuses 2 'values is' eval needle --values colours --model "$model"
refuses 2 'want both' eval needle --lines 3 --model "$model"
refuses 2 'want both' eval needle --data "$work/books" --model "$model"
refuses 2 'lines is 2, want at least 3' eval needle --data "$work/books" --lines 2 --model "$model"
refuses 1 'long.txt: no text has sentences of 900000 tokens' \
  eval needle --data "$work/long.txt" --lines 3 --length 900000 --limit 1 --model "$model"

# Perplexity: what keeps everything scores as the full cache, and runs go on where they ended.
rm -f "$work/records"
does eval ppl --method full,window,separators,evict,snapkv --budget 1G --data "$work/books" --limit 2 \
  --length 256 --results "$work/records" --model "$model" --json
# To the digit, but for passes of 64 tokens where a backend rounds by their length.
holds 'everything kept' 'len(d["rows"]) == 5 + 4 + 5 + 5 and
  all(abs(r["value"] - 1) <= (0 if r["machine"]["backend"] == "eigen" or r["method"] == "window"
  else 3e-3) for r in d["rows"] if r["metric"] == "ppl_ratio")'
grep -q 'more or fewer rows' "$work/err" && wrong 'a budget above the full cache is not met'
holds 'rows of eval' 'all({"metric", "method", "value", "n", "ci95", "settings", "machine"} <= r.keys()
  for r in d["rows"]) and all(r["n"] == 2 for r in d["rows"])'
cp "$work/out" "$work/first"
[ "$(wc -l < "$work/records")" = 10 ] || wrong "records: $(wc -l < "$work/records"), want 10"
printf '{"key": "torn' >> "$work/records"
does eval ppl --method full,window,separators,evict,snapkv --budget 1G --data "$work/books" --limit 2 \
  --length 256 --results "$work/records" --model "$model" --json
cmp -s "$work/out" "$work/first" || wrong 'a second run has other results'
[ "$(wc -l < "$work/records")" = 10 ] || wrong 'a second run measured again'
printf 'no record\n' > "$work/records2"
refuses 1 'records2:1: is no record' eval ppl --data "$work/books" --results "$work/records2" \
  --model "$model"

# Windows of a document: the first is what there is without them, and all count as one sample.
rm -f "$work/records"
set -- --method full --data "$work/books" --limit 2 --length 256 --results "$work/records" --model "$model" --json
does eval ppl "$@"
does eval ppl --windows 3 "$@"
[ "$(wc -l < "$work/records")" = 6 ] || wrong "records: $(wc -l < "$work/records"), want 6"
[ "$(cut -d'"' -f4 "$work/records" | sort -u | wc -l)" = 6 ] || wrong 'windows of a document are the same text'
holds windows 'all(r["n"] == 2 and r["settings"]["windows"] == 3 for r in d["rows"])
  and [r["settings"]["n_tokens"] > 700 for r in d["rows"] if r["metric"] == "ppl_regular"] == [True]'
does eval compression --windows 99 --method sag --data "$work/books" --limit 2 --length 256 --model "$model"
says err 'windows are left out: their documents are too short for 99'

# 7.4 or 3.7 rows, of which there are whole ones only.
does eval ppl --method window --budget 170000 --keep-lines --data "$work/books" --limit 1 --length 128 \
  --model "$model" --json
says err 'window reads up to [1-9].* more or fewer rows than was asked for'
holds 'what was asked for' 'all(r["settings"]["keep_lines"] and r["settings"]["budget"] == "170000"
  and "max_tokens" not in r["settings"] for r in d["rows"])'

does eval ppl --method full,sag,window,uniform,separators,evict,snapkv --data "$work/books" --limit 3 \
  --length 700 --positions 4 --model "$model" --json
cp "$work/out" "$work/ppl.json"
holds 'equal bytes' '(lambda b: all(abs(v / b["sag"] - 1) < 0.01 for m, v in b.items()
  if m != "full") and b["full"] > 3 * b["sag"])(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "kv_bytes_mean"})'
holds 'the full cache is best' '(lambda p: min(p, key=p.get) == "full" and len(p) == 7)(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "ppl_regular"})'
holds 'intervals' 'all(r["ci95"][0] <= r["value"] <= r["ci95"][1] for r in d["rows"]
  if r["metric"] == "ppl_regular")'
holds 'by position' 'len([r for r in d["rows"] if r["metric"] == "ppl_by_position"]) == 7 * 4'
draws "$work/ppl.json"
draws "$work/ppl.json" --kind bytes --title "It's a title"
mkdir "$work/it's \"a\" folder; \$HOME"
TMPDIR="$work/it's \"a\" folder; \$HOME"
export TMPDIR
draws "$work/ppl.json"
[ -z "$(ls "$TMPDIR")" ] || wrong "plot left $(ls "$TMPDIR")"
unset TMPDIR

# A packed file is what is packed in it.
if command -v zstd > /dev/null && command -v python3 > /dev/null; then
  python3 -c 'import json, sys
for path in sys.argv[1:]:
    print(json.dumps({"text": open(path).read()}))' "$work"/books/*.txt > "$work/books.jsonl"
  zstd -q "$work/books.jsonl" "$work/books/1.txt"
  for data in books.jsonl books/1.txt; do
    set -- --method full,sag --limit 0 --length 256 --model "$model" --json
    does eval compression --data "$work/$data" "$@"
    sed '/"data"/d' "$work/out" > "$work/unpacked"
    if "$gistkv" eval compression --data "$work/$data.zst" "$@" > "$work/out" 2> "$work/err"; then
      checks=$((checks + 1))
      sed '/"data"/d' "$work/out" | cmp -s - "$work/unpacked" || wrong "$data.zst is not read as $data"
    else
      says err 'built without zstd'
    fi
  done
  rm "$work/books/1.txt.zst"
fi

# Without LoRA on all rows the base is the model itself.
does eval ppl --method full,base --data "$work/books" --limit 1 --length 256 --model "$model" --json
holds base '[r["value"] for r in d["rows"] if r["metric"] == "ppl_ratio"] == [1, 1]'

# With raw sentences kept, the rows of spread gists still meet those of sag.
does eval compression --method sag,uniform --data "$work/books" --limit 3 --length 700 --recent 3 \
  --model "$model" --json
holds 'spread gists with raw periods' '(lambda b: abs(b["uniform"] / b["sag"] - 1) < 0.01)(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "kv_bytes_mean"})'
# Of two distances of gists with as many rows it is that near the sentences' own, here the longer one.
does eval compression --method sag,uniform --data "$work/books" --limit 3 --length 700 --recent 3 \
  --segmenter paper,before,min_bytes:300 --model "$model" --json
holds 'gists as far apart as sentences are' '(lambda b: abs(b["uniform"] / b["sag"] - 1) < 0.01)(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "kv_bytes_mean"}) and (
  lambda b: b["uniform"] > b["sag"] / 2)(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "ratio_tokens"})'
# Also where they are just longer than at the fewest rows, which are those of the rated half.
does eval compression --method sag,uniform --data "$work/books" --limit 3 --length 700 --recent 3 \
  --segmenter uniform:27 --model "$model" --json
holds 'gists as far apart as uniform sentences' '(lambda b: abs(b["uniform"] / b["sag"] - 1) < 0.03)(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "ratio_tokens"})'
does eval compression --method full,sag,uniform --data "$work/books" --limit 2 --length 600 \
  --model "$model" --json
holds compression '{r["method"] for r in d["rows"] if r["metric"] == "ratio_tokens"} ==
  {"sag", "uniform"} and all(r["value"] == 1 for r in d["rows"]
  if r["metric"] == "kv_ratio_bytes" and r["method"] == "full")'

echo '{"bf16_gflops": 1e9, "bandwidth_gbs": 1e9}' > "$work/peaks.json"
does eval speed --method full,sag --data "$work/books" --limit 1 --length 300 --max-tokens 8 \
  --ceilings "$work/peaks.json" --model "$model" --json
cp "$work/out" "$work/speed.json"
holds speed 'all(r["value"] > 0 for r in d["rows"]) and len(d["rows"]) == 14 and
  all(r["value"] > 1 for r in d["rows"] if r["metric"].endswith("_over_floor"))'
echo '{"bf16_gflops": 0, "bandwidth_gbs": 9}' > "$work/peaks.json"
refuses 1 'peaks.json: bf16_gflops and bandwidth_gbs are 0.0 and 9.0, want more than 0' \
  eval speed --data "$work/books" --ceilings "$work/peaks.json" --model "$model"
draws "$work/speed.json"
does eval speed --method recent --data "$work/books" --limit 1 --length 64 --max-tokens 4 --model "$model"

# The raw rows of sag alone: as many as its gists fewer, and the same where there is no sentence end.
does eval compression --method full,sag,recent --data "$work/books" --limit 2 --length 600 --recent 2 \
  --model "$model" --json
holds 'recent sentences' '(lambda b: 0 < b["recent"] < 0.9 * b["sag"] < b["full"])(
  {r["method"]: r["value"] for r in d["rows"] if r["metric"] == "kv_bytes_mean"})'
does eval ppl --method full,sag,recent --data "$work/books" --limit 1 --length 256 --recent 99 --segmenter uniform:16 \
  --model "$model" --json
holds 'recent sentences that are all' '[abs(r["value"] - 1) < 3e-3 for r in d["rows"]
  if r["metric"] == "ppl_ratio" and r["method"] == "recent" and r["settings"]["against"] == "full"] == [True]'

# Questions.
does eval needle --method full,window --limit 2 --depths 2 --length 400 --model "$model" --json
cp "$work/out" "$work/needle.json"
holds needle '[r["n"] for r in d["rows"] if r["metric"] == "needle_accuracy"] == [4, 4]'
holds 'a window has forgotten' 'all(r["value"] == 0 for r in d["rows"]
  if r["metric"] == "needle_accuracy_outside_window" and r["method"] == "window")'
draws "$work/needle.json"
cp -r "$work/books" "$work/some"
printf 'Too short a story.' > "$work/some/0.txt"
does eval needle --method full,sag --lines 3 --data "$work/some" --limit 2 --depths 2 --length 400 \
  --model "$model" --json
grep -q '^gistkv: note: 1 text has fewer than 400 tokens and is left out$' "$work/err" ||
  wrong "a text that is too short: $(cat "$work/err")"
holds 'lines among sentences' '[r["n"] for r in d["rows"] if r["metric"] == "needle_accuracy"] == [4, 4] and
  all(r["settings"]["lines"] == 3 for r in d["rows"])'
cat > "$work/qa.jsonl" <<'END'
{"context": "The harbour of Lowell was built in 1842. An old sailor keeps the light.", "question": "When was the harbour of Lowell built?", "answers": ["1842", "in 1842"]}
{"context": "Mount Ada is 900 metres high. Goats live on it.", "input": "How high is Mount Ada?", "outputs": ["900 metres"]}
{"context": "The capital of Freedonia is Fredville.", "query": "What is the capital of Freedonia?", "answer": "Fredville"}
END
does eval longqa --method full,sag --limit 0 --contexts 2 --shift --data "$work/qa.jsonl" \
  --model "$model" --json
holds longqa '[r["n"] for r in d["rows"] if r["metric"] in ("em", "f1")] == [3] * 4 and
  all(r["settings"]["contexts"] == 2 and r["settings"]["shift"] for r in d["rows"])'
holds 'the full cache can read' 'max(r["value"] for r in d["rows"] if r["metric"] == "contains"
  and r["method"] == "full") > 0.5'
# A window that holds the context answers as the full cache: the question pushes nothing out.
set -- --limit 0 --contexts 2 --results "$work/answers" --model "$model" --json
does eval longqa --method full,window --budget 1G --data "$work/qa.jsonl" "$@"
holds 'a window stands still' '(lambda t: len(t["full"]) == 3 and t["full"] == t["window"])(
  {m: [x["record"]["text"] for x in map(json.loads, open("'"$work/answers"'")) if x["method"] == m]
  for m in ("full", "window")})'
# Other answers are another question.
sed 's/900 metres"\]/nobody knows"]/' "$work/qa.jsonl" > "$work/other.jsonl"
cp "$work/answers" "$work/answers_before"
does eval longqa --method full,window --budget 1G --data "$work/other.jsonl" "$@"
[ "$(wc -l < "$work/answers")" -gt "$(wc -l < "$work/answers_before")" ] ||
  wrong 'an answer was taken from a question with other answers'

printf '{"ordered_kv_records": [["a-1", "b-2"], ["c-3", "d-4"]], "key": "c-3", "value": "d-4"}\n' \
  > "$work/kv.jsonl"
does eval kv --method full --data "$work/kv.jsonl" --model "$model" --json
holds kv '[r["metric"] for r in d["rows"]] == ["kv_accuracy", "kv_ratio_bytes"] and
  d["rows"][0]["value"] == 1'

# Multiple choice, in the four shapes of public sets.
cat > "$work/choice.jsonl" <<'END'
{"question": "What do cows drink?", "choices": {"text": ["water", "petrol", "granite", "moonlight"], "label": ["A", "B", "C", "D"]}, "answerKey": "A"}
{"ctx": "She opened the umbrella because it started to", "endings": ["rain.", "granite the of.", "seven."], "label": 0}
{"sentence": "The trophy did not fit into the case because the _ was too large.", "option1": "trophy", "option2": "case", "answer": "1"}
{"subject": "geography", "question": "Paris is the capital of", "choices": ["France", "Peru", "Japan", "Chad"], "answer": "A"}
END
does eval choice --method full,sag --limit 0 --data "$work/choice.jsonl" --model "$model" --json
holds choice '{r["metric"] for r in d["rows"]} == {"choice_accuracy", "choice_accuracy_by_length",
  "choice_accuracy_difference", "choice_agreement", "choice_kl"}'
holds 'the full cache knows' '[r["value"] for r in d["rows"] if r["metric"] == "choice_accuracy"
  and r["method"] == "full"][0] >= 0.75'
mkdir "$work/mmlu"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  printf '{"subject": "sums", "question": "%d + 1 = ?", "choices": ["%d", "0", "99", "77"], "answer": "A"}\n' \
    $i $((i + 1))
done > "$work/mmlu/val.jsonl"
head -n 2 "$work/mmlu/val.jsonl" > "$work/mmlu/dev.jsonl"
does eval mmlu --method full,window --budget 1G --limit 0 --shots 2 --data "$work/mmlu" --model "$model" --json
holds mmlu '[r["n"] for r in d["rows"] if r["metric"] == "mmlu_accuracy"] == [20, 20]'
holds 'everything kept' 'all(abs(r["value"] - (1 if r["metric"] == "mmlu_agreement" else 0)) <=
  1e-12
  for r in d["rows"] if "against" in r["settings"])'
does eval mmlu --method full --limit 0 --shots 2 --shuffle-labels --data "$work/mmlu" --model "$model" \
  --json
holds 'labels at random give chance' '0.02 <= d["rows"][0]["value"] <= 0.5'

# The other pictures.
does generate 'The harbour of Lowell' --max-tokens 24 --model "$model" --json
cp "$work/out" "$work/rows.json"
draws "$work/rows.json"
printf 'step,loss,lr\n1,2.5,0.1\n2,2.25,0.1\n' > "$work/train.csv"
printf '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.1, "note": "x"}\n' > "$work/train.jsonl"
draws "$work/train.csv" "$work/train.jsonl"
finish
