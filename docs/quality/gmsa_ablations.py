#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""What the parts of GMSA are worth: a compressor trained with each part changed, several seeds.

    gmsa_ablations.py run PROGRAM MODEL TRAIN HELD FOLDER [--steps N] [--seeds N] [--only NAME,...]
    gmsa_ablations.py table gmsa-ablations.json

TRAIN and HELD are JSONL (or .jsonl.zst) with a field `text`, of different books. `run` trains a
compressor to restore short pieces of texts of TRAIN, once for each variant and seed (0, 1, ...), and
has `gistkv eval restore` measure it on pieces of paragraphs of HELD, at rates 4, 8 and 16. All of it
goes on where it was ended; what the program printed is gathered in FOLDER/gmsa-ablations.json.
`table` writes that as tables of Markdown: means over seeds, and for each variant the difference from
the method, paired by seed, with its interval of 95 % (Student's t).
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

rates = [4, 8, 16]
# What differs from the method: 8 layers read, the mean of a group, one layer of the decoder.
variants = {
    "method": {},
    "last of each group": {"merging": "last"},
    "learned slots": {"merging": "slots"},
    "no alignment": {"alignment": "none"},
    "random alignment": {"alignment": "random"},
    "4 encoder layers": {"encoder_layers": 4},
    "2 encoder layers": {"encoder_layers": 2},
}


def call(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def held_paragraphs(o, path):
    """The first paragraph of 40 words or more of each tenth of a book, at most 32 in all."""
    if path.exists():
        return path
    packed = subprocess.run(["zstd", "-dc", o.held], capture_output=True, check=True).stdout \
        if o.held.endswith(".zst") else pathlib.Path(o.held).read_bytes()
    texts = []
    for line in filter(None, packed.decode().split("\n")):
        lines = json.loads(line)["text"].splitlines()
        for tenth in range(2, 8, 2):
            texts += [x for x in lines[len(lines) * tenth // 10:] if len(x.split()) >= 40][:1]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[:32]))
    return path


def run(o):
    folder = pathlib.Path(o.folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = held_paragraphs(o, folder / "held.jsonl")
    names = o.only.split(",") if o.only else list(variants)
    for seed in range(o.seeds):
        for name in names:
            out = folder / f"{name.replace(' ', '-')}-{seed}"
            if (out / "result.json").exists():
                continue
            out.mkdir(exist_ok=True)
            config = {
                "model": o.model, "output": str(out), "seed": seed + 1, "rates": o.rates,
                "lora": {"rank": 16, "alpha": 32, "dropout": 0},
                "data": {"files": [o.train], "max_tokens": 2000000,
                         "cache": str(folder / "tokens.safetensors")},
                "save_every": 50, "validate_every": 25, "validation_windows": 64,
                "stages": [{"train": "restoring", "sequence": o.length + 8, "batch": o.batch,
                            "micro_batch": o.batch, "steps": o.steps, "learning_rate": o.rate,
                            "floor": 0, "warm_up": max(1, o.steps // 30)}]}
            config.update(variants[name])
            (out / "config.json").write_text(json.dumps(config))
            going_on = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
            report = json.loads(call(o.program, "train", "gmsa", "--config", out / "config.json",
                                     "--threads", o.threads, "--json", *going_on))
            rows = []
            for rate in rates:
                rows += json.loads(call(
                    o.program, "eval", "restore", "--method", "gmsa", "--data", held, "--limit", 0,
                    "--length", o.length, "--rate", rate, "--adapter", out / "adapter.safetensors",
                    "--model", o.model, "--threads", o.threads, "--json"))["rows"]
            lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
            curve = [[x["step"], x["validation"]] for x in lines if "validation" in x]
            (out / "result.json").write_text(json.dumps(
                {"variant": name, "seed": seed, "steps": o.steps, "train": report, "curve": curve,
                 "rows": rows}))
            (out / "checkpoint.safetensors").unlink()
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
    for name in ("program", "model", "train", "held", "folder"):
        one.add_argument(name)
    one.add_argument("--length", type=int, default=16, help="tokens of a piece")
    one.add_argument("--rates", type=int, nargs="+", default=[2, 4], help="in training")
    one.add_argument("--batch", type=int, default=8)
    one.add_argument("--steps", type=int, default=200)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--rate", type=float, default=1e-3)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--only", default="")
    one.set_defaults(do=run)
    two = verbs.add_parser("table")
    two.add_argument("results")
    two.set_defaults(do=table)
    o = parser.parse_args()
    o.do(o)


main()
