#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""What the parts of GMSA are worth, on a model of 260 thousand weights.

    gmsa_ablations.py run PROGRAM CHECKPOINT TEXTS FOLDER [--steps N] [--seeds N] [--only NAME,...]
    gmsa_ablations.py table gmsa-ablations.json

CHECKPOINT is stories260K.bin of llama2.c, whose vocabulary has all bytes; TEXTS is JSONL with a field
`text`. `run` first has `gistkv train sag` make a model of bytes out of the checkpoint (all weights, on
windows without a gist). Then it trains a compressor to restore pieces of texts, once for each variant
and seed (0, 1, ...), and has `gistkv eval restore` measure it on pieces of other texts, at rates 4, 8
and 16. All of it goes on where it was ended; what the program printed is gathered in
FOLDER/gmsa-ablations.json. `table` writes that as tables of Markdown: means over seeds, and for each
variant the difference from the method, paired by seed, with its interval of 95 % (Student's t).
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
tiny_model = here.parent.parent / "tests" / "cli" / "tiny_model.py"
rates = [4, 8, 16]
length = 32  # Bytes of a piece.
# What differs from the method: 4 of 5 layers read, the mean of a group, one layer of the decoder.
variants = {
    "method": {},
    "last of each group": {"merging": "last"},
    "learned slots": {"merging": "slots"},
    "no alignment": {"alignment": "none"},
    "random alignment": {"alignment": "random"},
    "2 encoder layers": {"encoder_layers": 2},
    "1 encoder layer": {"encoder_layers": 1},
}


def call(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def make_texts(texts, folder):
    """Texts to make the model of, pieces of them to restore, and pieces of others to measure on."""
    whole, train, held = (folder / f"{n}.jsonl" for n in ("whole", "train", "held"))
    if whole.exists() and train.exists() and held.exists():
        return whole, train, held
    lines = [json.loads(x)["text"] for x in open(texts, encoding="utf-8") if x.strip()]
    lines = [t for t in dict.fromkeys(" ".join(x.split()) for x in lines) if t.isascii()]
    n_held = max(1, len(lines) // 20)

    def pieces(all_of):
        """Whole words, and as many bytes as a piece has at most, but no less than three quarters."""
        for text in all_of:
            piece = ""
            for word in text.split():
                if len(piece) + 1 + len(word) <= length:
                    piece = f"{piece} {word}".strip()
                    continue
                if len(piece) * 4 >= length * 3:
                    yield piece
                piece = word[:length]

    def write(path, all_of):
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in all_of))

    write(held, list(dict.fromkeys(pieces(lines[:n_held])))[:100])
    write(train, list(dict.fromkeys(pieces(lines[n_held:])))[:50000])
    write(whole, lines[n_held:])
    return whole, train, held


def make_model(o, folder, whole):
    """The model of bytes, and its own loss."""
    tiny, base = folder / "tiny", folder / "base"
    if not (tiny / "tokenizer_config.json").exists():
        subprocess.run([sys.executable, tiny_model, o.checkpoint, tiny], check=True)
    if not (base / "report.json").exists():
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text(json.dumps({
            "model": str(tiny), "output": str(base), "seed": 1, "gists": 1, "recent": 100,
            "data": {"files": [str(whole)], "segmenter": "uniform:1000", "max_tokens": 4000000},
            "optimiser": {"weight_decay": 0.01}, "save_every": 200, "validate_every": 500,
            "stages": [{"train": "all", "sequence": 128, "batch": 16, "micro_batch": 16,
                        "steps": o.base_steps, "learning_rate": 0.003, "floor": 0.0003,
                        "warm_up": max(1, o.base_steps // 10), "clip": 1}]}))
        going_on = ["--resume"] if (base / "checkpoint.safetensors").exists() else []
        (base / "report.json").write_text(call(o.program, "train", "sag", "--config",
                                               base / "config.json", "--threads", o.threads,
                                               "--json", *going_on))
    return base / "model"


def run(o):
    folder = pathlib.Path(o.folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole, train, held = make_texts(o.texts, folder)
    model = make_model(o, folder, whole)
    names = o.only.split(",") if o.only else list(variants)
    for seed in range(o.seeds):
        for name in names:
            out = folder / f"{name.replace(' ', '-')}-{seed}"
            if (out / "result.json").exists():
                continue
            out.mkdir(exist_ok=True)
            config = {
                "model": str(model), "output": str(out), "seed": seed + 1, "rates": rates,
                "encoder_layers": 4, "restore": "R", "lora": {"rank": 16, "alpha": 32},
                "data": {"files": [str(train)], "cache": str(folder / "tokens.safetensors")},
                "save_every": 200, "validate_every": 100, "validation_windows": 64,
                "stages": [{"train": "restoring", "sequence": length + 2, "batch": 8,
                            "micro_batch": 8, "steps": o.steps, "learning_rate": o.rate,
                            "floor": 0}]}
            config.update(variants[name])
            (out / "config.json").write_text(json.dumps(config))
            going_on = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
            report = json.loads(call(o.program, "train", "gmsa", "--config", out / "config.json",
                                     "--threads", o.threads, "--json", *going_on))
            rows = []
            for rate in rates:
                rows += json.loads(call(
                    o.program, "eval", "restore", "--method", "gmsa", "--data", held, "--limit", 0,
                    "--length", length, "--rate", rate, "--adapter", out / "adapter.safetensors",
                    "--model", model, "--prompt", "R", "--cache-type", "f32",
                    "--threads", o.threads, "--json"))["rows"]
            lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
            curve = [[x["step"], x["validation"]] for x in lines if "validation" in x]
            (out / "result.json").write_text(json.dumps(
                {"variant": name, "seed": seed, "steps": o.steps, "train": report, "curve": curve,
                 "rows": rows}))
            print(name, seed, curve[-1], *(f"{r['metric']} {r['value']:.3f}" for r in rows), flush=True)
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("*/result.json"))]
    (folder / "gmsa-ablations.json").write_text(json.dumps(found, indent=1) + "\n")


# Student's t of 97.5 % for 1, 2, ... degrees of freedom.
student = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]


def interval(values):
    """Mean and half the width of its interval of 95 %."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, student[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def table(o):
    found = json.loads(pathlib.Path(o.results).read_text())

    def values(name, of):
        return {r["seed"]: of(r) for r in found if r["variant"] == name}

    def metric(which, rate):
        return lambda r: next(x["value"] for x in r["rows"]
                              if x["metric"] == which and x["settings"]["rate"] == rate)

    figures = [("loss", lambda r: r["train"]["validation"], "{:.3f}")]
    for rate in rates:
        figures.append((f"accuracy, {rate}", metric("token_accuracy", rate), "{:.3f}"))
    for rate in rates:
        figures.append((f"BLEU, {rate}", metric("bleu", rate), "{:.3f}"))
    for rate in rates:
        figures.append((f"exact prefix, {rate}", metric("exact_prefix", rate), "{:.3f}"))
    names = [n for n in variants if values(n, figures[0][1])]
    print("| variant | seeds | " + " | ".join(f[0] for f in figures) + " |")
    print("| --- |" + " --- |" * (len(figures) + 1))
    for name in names:
        cells = [form.format(statistics.fmean(values(name, of).values())) for _, of, form in figures]
        print(f"| {name} | {len(values(name, figures[0][1]))} | " + " | ".join(cells) + " |")
    print("\n| against the method | loss | 95 % | at 95 % | accuracy at 4 | 95 % | at 95 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names[1:]:
        cells = []
        for _, of, form in figures[:2]:
            base, other = values("method", of), values(name, of)
            mean, half = interval([other[s] - base[s] for s in other if s in base])
            sure = "significant" if abs(mean) > half else "not significant"
            cells += [f"{mean:+.3f}", f"{mean - half:+.3f} to {mean + half:+.3f}", sure]
        print(f"| {name} | " + " | ".join(cells) + " |")
    steps = sorted({p[0] for r in found for p in r["curve"]})
    shown = [s for i, s in enumerate(steps) if i % max(1, len(steps) // 8) == 0 or s == steps[-1]]
    print("\n| loss on held-back texts at step | " + " | ".join(map(str, shown)) + " |")
    print("| --- |" + " --- |" * len(shown))
    for name in names:
        curves = [dict(map(tuple, r["curve"])) for r in found if r["variant"] == name]
        cells = [f"{statistics.fmean([c[s] for c in curves if s in c]):.2f}"
                 if any(s in c for c in curves) else "" for s in shown]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("run")
    one.add_argument("program")
    one.add_argument("checkpoint")
    one.add_argument("texts")
    one.add_argument("folder")
    one.add_argument("--base-steps", type=int, default=1500)
    one.add_argument("--steps", type=int, default=1500)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--rate", type=float, default=2e-3)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--only", default="")
    one.set_defaults(do=run)
    two = verbs.add_parser("table")
    two.add_argument("results")
    two.set_defaults(do=table)
    o = parser.parse_args()
    o.do(o)


main()
