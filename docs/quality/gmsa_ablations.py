#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""What the parts of GMSA are worth: a compressor trained with each part changed, several seeds.

    gmsa_ablations.py run PROGRAM MODEL TRAIN HELD FOLDER [--steps N] [--seeds N] [--only NAME,...]
    gmsa_ablations.py table gmsa-ablations.json

TRAIN and HELD are JSONL (or .jsonl.zst) with a field `text`, of different books. `run` trains a
compressor to restore short pieces of texts of TRAIN, once for each variant and seed (0, 1, ...), and
has `gistkv eval restore` measure it on paragraphs of HELD, at each of the rates. Behind the method's
compressor, and behind an untrained one, it trains the decoder (KEFT) to say which word follows another
one in such a piece, and has `gistkv eval qa` ask that on HELD. All of it goes on where it was ended;
what the program found is gathered in FOLDER/gmsa-ablations.json.
`table` writes that as tables of Markdown: means over seeds, and for each variant the difference from
the method, paired by seed, with its interval of 95 % (Student's t).
"""
import argparse
import json
import math
import pathlib
import random
import statistics
import subprocess
import sys

# What differs from the method: all the layers that it reads, the mean of a group, one layer of the
# decoder.
variants = {
    "method": {},
    "last of each group": {"merging": "last"},
    "learned slots": {"merging": "slots"},
    "no alignment": {"alignment": "none"},
    "random alignment": {"alignment": "random"},
    "half of the encoder": {},
    "a quarter of the encoder": {},
}
encoders = {"half of the encoder": 2, "a quarter of the encoder": 4}
# Whose compressor the decoder is trained to answer on; none: an untrained one.
answering = {"AE and KEFT": "method", "KEFT alone": None}
n_words = 10  # Of a text that is asked on.


def call(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def texts_of(path):
    packed = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout \
        if path.endswith(".zst") else pathlib.Path(path).read_bytes()
    return [json.loads(line)["text"] for line in packed.decode().split("\n") if line]


def held_paragraphs(o, path):
    """The first paragraph of 40 words or more behind three places of a book, as many as are asked for."""
    if path.exists():
        return path
    texts = []
    for text in texts_of(o.held):
        lines = text.splitlines()
        for tenth in range(2, 8, 2):
            texts += [x for x in lines[len(lines) * tenth // 10:] if len(x.split()) >= 40][:1]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[:o.paragraphs]))
    return path


def questions(source, path, n):
    """Which word follows one that stands once in its text; n of them, spread over all texts."""
    if path.exists():
        return path
    draw = random.Random(1)
    found = []
    words = " ".join(texts_of(source)).split()
    for at in range(0, len(words) - n_words, n_words):
        piece = words[at:at + n_words]
        plain = ["".join(filter(str.isalpha, w)) for w in piece]
        known = [i for i in range(n_words - 1)
                 if min(len(plain[i]), len(plain[i + 1])) > 3 and plain.count(plain[i]) == 1]
        if known:
            i = draw.choice(known)
            found.append({"context": " ".join(piece), "answers": [plain[i + 1]],
                          "question": f'Which word follows "{plain[i]}"?'})
    draw.shuffle(found)
    path.write_text("".join(json.dumps(q) + "\n" for q in found[:n]))
    return path


def stage_of(o, folder, name, seed):
    """What a variant is trained on, and what measures it."""
    if name not in answering:
        stage = {"train": "restoring", "sequence": o.length + 8, "learning_rate": o.rate}
        config = {"data": {"files": [o.train], "max_tokens": 2000000,
                           "cache": str(folder / "tokens.safetensors")}, **variants[name]}
        if name in encoders:
            config["encoder_layers"] = max(1, o.encoder_layers // encoders[name])
        return stage, config, ["restore", "--data", held_paragraphs(o, folder / "held.jsonl"),
                               "--length", o.length, "--prompt", o.restore]
    stage = {"train": "answering", "sequence": 128, "learning_rate": o.keft_rate}
    config = {"questions": [str(questions(o.train, folder / "questions.jsonl", 20000))],
              "format": "plain"}
    if answering[name]:
        config["adapter"] = str(folder / f"{answering[name]}-{seed}" / "adapter.safetensors")
    return stage, config, ["qa", "--data", questions(o.held, folder / "held-questions.jsonl", 200),
                           "--format", "plain", "--max-tokens", 12]


def run(o):
    folder = pathlib.Path(o.folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = o.only.split(",") if o.only else [*variants, *answering]
    for seed in range(o.seeds):
        for name in names:
            out = folder / f"{name.replace(' ', '-')}-{seed}"
            if (out / "result.json").exists():
                continue
            out.mkdir(exist_ok=True)
            stage, own, measure = stage_of(o, folder, name, seed)
            config = {
                "model": o.model, "output": str(out), "seed": seed + 1, "rates": o.rates,
                "encoder_layers": o.encoder_layers, "restore": o.restore,
                "lora": {"rank": 16, "alpha": 32, "dropout": 0}, **own,
                "save_every": 100, "validate_every": max(25, o.steps // 20),
                "validation_windows": 64,
                "stages": [{**stage, "batch": o.batch, "micro_batch": o.batch, "steps": o.steps,
                            "floor": 0, "warm_up": max(1, o.steps // 30)}]}
            (out / "config.json").write_text(json.dumps(config))
            going_on = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
            report = json.loads(call(o.program, "train", "gmsa", "--config", out / "config.json",
                                     "--threads", o.threads, "--json", *going_on))
            rows = []
            for rate in o.rates:
                rows += json.loads(call(
                    o.program, "eval", *measure, "--method", "gmsa", "--limit", 0, "--rate", rate,
                    "--adapter", out / "adapter.safetensors", "--model", o.model, "--threads",
                    o.threads, "--json"))["rows"]
            lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
            curve = [[x["step"], x["validation"]] for x in lines if "validation" in x]
            (out / "result.json").write_text(json.dumps(
                {"variant": name, "seed": seed, "steps": o.steps, "rates": o.rates, "train": report,
                 "curve": curve, "rows": rows}))
            (out / "checkpoint.safetensors").unlink()
            print(name, seed, curve[-1], *(f"{r['metric']} {r['value']:.3f}" for r in rows), flush=True)
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("*/result.json"))]
    for result in found:  # Of what was printed, what differs.
        result["train"] = {"validation": result["train"]["validation"]}
        result["rows"] = [{k: r[k] for k in ("metric", "value", "n", "ci95") if k in r} |
                          {"rate": r["settings"]["rate"]} for r in result["rows"]]
    lines = ",\n".join(json.dumps(result) for result in found)
    (folder / "gmsa-ablations.json").write_text(f"[{lines}]\n")


# Student's t of 97.5 % for 1, 2, ... degrees of freedom.
student = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]


def interval(values):
    """Mean and half the width of its interval of 95 %."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, student[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def write_tables(found, names, metrics):
    """Means over seeds, differences from the first of the names, and how losses fell."""

    def values(name, of):
        return {r["seed"]: of(r) for r in found if r["variant"] == name}

    def metric(which, rate):
        return lambda r: next(x["value"] for x in r["rows"]
                              if x["metric"] == which and x["rate"] == rate)

    rates = found[0]["rates"]
    figures = [("loss", lambda r: r["train"]["validation"])]
    for which, shown in metrics.items():
        figures += [(f"{shown}, {rate}", metric(which, rate)) for rate in rates]
    names = [n for n in names if values(n, figures[0][1])]
    if not names:
        return
    print("| variant | seeds | " + " | ".join(f[0] for f in figures) + " |")
    print("| --- |" + " --- |" * (len(figures) + 1))
    for name in names:
        cells = [f"{statistics.fmean(values(name, of).values()):.3f}" for _, of in figures]
        print(f"| {name} | {len(values(name, figures[0][1]))} | " + " | ".join(cells) + " |")
    print(f"\n| against {names[0]} |" +
          "".join(f" {shown} | 95 % | at 95 % |" for shown, _ in figures[:2]))
    print("| --- |" + " --- |" * 6)
    for name in names[1:]:
        cells = []
        for _, of in figures[:2]:
            base, other = values(names[0], of), values(name, of)
            mean, half = interval([other[s] - base[s] for s in other if s in base])
            sure = "significant" if abs(mean) > half else "not significant"
            cells += [f"{mean:+.3f}", f"{mean - half:+.3f} to {mean + half:+.3f}", sure]
        print(f"| {name} | " + " | ".join(cells) + " |")
    curves = {n: [dict(map(tuple, r["curve"])) for r in found if r["variant"] == n] for n in names}
    steps = sorted({step for of_name in curves.values() for curve in of_name for step in curve})
    shown = [s for i, s in enumerate(steps) if i % max(1, len(steps) // 8) == 0 or s == steps[-1]]
    print("\n| loss on what is held back at step | " + " | ".join(map(str, shown)) + " |")
    print("| --- |" + " --- |" * len(shown))
    for name in names:
        cells = [f"{statistics.fmean([c[s] for c in curves[name] if s in c]):.2f}"
                 if any(s in c for c in curves[name]) else "" for s in shown]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def table(o):
    found = json.loads(pathlib.Path(o.results).read_text())
    write_tables(found, variants, {"token_accuracy": "accuracy", "bleu": "BLEU",
                                   "exact_prefix": "exact prefix"})
    write_tables(found, answering, {"f1": "F1", "em": "exact match"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("run")
    for name in ("program", "model", "train", "held", "folder"):
        one.add_argument(name)
    one.add_argument("--length", type=int, default=16, help="tokens of a piece")
    one.add_argument("--paragraphs", type=int, default=32, help="to measure on")
    one.add_argument("--rates", type=int, nargs="+", default=[2, 4])
    one.add_argument("--encoder-layers", type=int, default=8)
    one.add_argument("--restore", default="Restate the aforementioned Text.", help="the prompt")
    one.add_argument("--batch", type=int, default=8)
    one.add_argument("--steps", type=int, default=200)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--rate", type=float, default=1e-3)
    one.add_argument("--keft-rate", type=float, default=1e-4)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--only", default="")
    one.set_defaults(do=run)
    two = verbs.add_parser("table")
    two.add_argument("results")
    two.set_defaults(do=table)
    o = parser.parse_args()
    o.do(o)


if __name__ == "__main__":
    main()
