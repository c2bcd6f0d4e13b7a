#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Training steps of gistkv and of PyTorch + transformers: one machine, one run, taken in turn.

    train_peer.py run --text BOOK.txt             # writes benchmarks/results/train_peer.json
    train_peer.py run --text BOOK.txt --quick     # two steps of each, to see that it works

Both train gist rows and LoRA (r = 16 on all linear maps) of the same model on the same window of
tokens under the same sentence mask, from the same start, with the same AdamW. The first losses must
agree before anything is timed. Each round is a process of its own; its first step warms up and is
not counted. Peak memory is that of the training, without loading the model, for PyTorch, and of
the whole process for gistkv.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "gistkv"
PACKAGES = ("torch", "transformers", "accelerate", "gguf", "numpy", "safetensors")
GISTS, RECENT, SINK, RANK, ALPHA, RATE = 4, 4, 1, 16, 32.0, 1e-3
# Relative, at the first step, where both have the same weights but for their rounding to bf16. Later
# steps are recorded, not compared: AdamW's first ones have the size of the rate whatever the size of
# a gradient, so that rounding decides the sign of many.
MOST_APART = {"loss": 0.002, "gradient_norm": 0.02}


class Failure(Exception):
    pass


def note(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def call(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Failure(f"{pathlib.Path(command[0]).name}: {lines[-1]}")
    return done.stdout


def setup(given):
    """Python of an environment with the peer's packages."""
    if given:
        return given
    python = CACHE / "peers" / "torch" / "bin" / "python"
    try:
        call([python, "-c", "import torch, transformers, accelerate, gguf"])
    except (OSError, Failure):
        note(f"installing {', '.join(PACKAGES)}: some minutes and gigabytes")
        call([sys.executable, "-m", "venv", python.parent.parent])
        call([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    return python


class Run:
    """Our side: a folder with a config, and what came of it."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder

    def config(self, name, steps, rows, rate=RATE, adapter=None, max_tokens=0, length=None,
               recompute=False):
        config = {
            "model": str(self.args.model), "output": str(self.folder / name), "seed": 1,
            "gists": GISTS, "recent": RECENT, "sink": SINK,
            "data": {"files": [str(self.args.text)], "max_tokens": max_tokens,
                     "cache": str(self.folder / "tokens.safetensors")},
            "lora": {"rank": RANK, "alpha": ALPHA, "rows": rows},
            "optimiser": {"weight_decay": 0.0}, "save_every": steps, "validate_every": 0,
            "recompute": recompute,
            "stages": [{"train": "lora", "sequence": length or self.args.length, "batch": 1,
                        "steps": steps, "schedule": "constant", "warm_up": 0,
                        "learning_rate": rate, "clip": 1.0}]}
        if adapter:
            config["adapter"] = str(adapter)
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def train(self, *config, **more):
        path = self.config(*config, **more)
        shutil.rmtree(self.folder / path.stem, ignore_errors=True)  # Of a round before.
        report = json.loads(call([self.args.program, "train", "sag", "--config", path, "--threads",
                                  self.args.threads, "--json"]))
        lines = [json.loads(line) for line in
                 (pathlib.Path(report["output"]) / "log.jsonl").read_text().splitlines()]
        ends = [0.0] + [line["seconds"] for line in lines]
        return {"loss": [line["loss"] for line in lines],
                "gradient_norm": [line["gradient_norm"] for line in lines],
                "seconds": [b - a for a, b in zip(ends, ends[1:])],
                "peak_rss_bytes": report["peak_rss_bytes"], "adapter": report["adapter"]}

    def stream(self):
        data = (self.folder / "tokens.safetensors").read_bytes()
        n = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:8 + n])
        begin, end = (8 + n + x for x in header["stream"]["data_offsets"])
        return list(struct.unpack(f"<{(end - begin) // 4}i", data[begin:end]))


def rows_of(stream, n_vocab):
    """Ids and weights of the loss, as token_stream.hpp lays them out: -1 ends a sentence, -2 a
    document, below that stand tokens that the text does not have."""
    ids, weights = [], []
    for x in stream:
        if x == -1:
            ids += range(n_vocab, n_vocab + GISTS)
            weights += [1.0] * GISTS
        elif x < -2:
            ids.append(-3 - x)
            weights.append(0.0)
        elif x >= 0:
            ids.append(x)
            weights.append(1.0)
    weights[0] = 0.0
    return ids, weights


def cut(stream, length):
    """The longest beginning of a stream that fills a window of `length` rows with sentences."""
    rows, end = 0, 0
    for i, x in enumerate(stream):
        rows += GISTS if x == -1 else 0 if x == -2 else 1
        if rows > length or x == -2:
            break
        if x == -1:
            end = i + 1
    return stream[:end]


def summary(rounds, n_tokens):
    seconds = [s for r in rounds for s in r["seconds"][1:]] or [rounds[0]["seconds"][0]]
    rates = [n_tokens / s for s in seconds]
    return {"steps": len(seconds), "tokens_per_second_median": statistics.median(rates),
            "tokens_per_second_best": max(rates), "tokens_per_second_worst": min(rates),
            "peak_rss_bytes": max(r["peak_rss_bytes"] for r in rounds)}


def compare(args, python, run, stream, n_vocab, lora_rows):
    """One form of LoRA: a start for both, their first losses, then rounds in turn."""
    ids, weights = rows_of(stream, n_vocab)
    fixed = {"max_tokens": len(stream)}
    # A step at rate 0 leaves the start in the adapter file.
    start = pathlib.Path(run.train(f"start_{lora_rows}", 1, lora_rows, rate=0.0,
                                   **fixed)["adapter"])
    task = {"model": str(args.model), "folder": str(args.folder), "adapter": str(start),
            "threads": args.threads, "alpha": ALPHA, "rate": RATE, "ids": ids, "weights": weights,
            "gists": GISTS, "recent": RECENT, "sink": SINK, "lora_rows": lora_rows,
            "steps": args.steps}
    ours, again, theirs = [], [], []
    for turn in range(args.rounds):
        note(f"LoRA on {lora_rows} rows, round {turn + 1} of {args.rounds}")
        ours.append(run.train(f"ours_{lora_rows}", args.steps, lora_rows, adapter=start, **fixed))
        again.append(run.train(f"again_{lora_rows}", args.steps, lora_rows, adapter=start,
                               recompute=True, **fixed))
        theirs.append(json.loads(call([python, HERE / "train_torch.py", json.dumps(task)])))
        if turn > 0:
            continue
        for key, apart in MOST_APART.items():
            a, b = ours[0][key][0], theirs[0][key][0]
            if not abs(a - b) <= apart * abs(b):
                raise Failure(f"step 1: the {key} is {a:.5f} here and {b:.5f} there, want them "
                              f"within {apart:.1%}")
    n = len(ids)
    result = {"lora_rows": lora_rows, "rows": n, "gist_rows": sum(i >= n_vocab for i in ids),
              "ours": summary(ours, n), "ours_recomputing": summary(again, n),
              "peer": summary(theirs, n),
              "check": {key: {"ours": ours[0][key], "ours_recomputing": again[0][key],
                              "peer": theirs[0][key]}
                        for key in ("loss", "gradient_norm")},
              "peer_peak_rss_bytes_with_loading":
                  max(r["peak_rss_bytes_with_loading"] for r in theirs)}
    peer = result["peer"]
    for side in ("ours", "ours_recomputing"):
        mine = result[side]
        mine["times_the_speed"] = mine["tokens_per_second_median"] / peer["tokens_per_second_median"]
        mine["share_of_memory"] = mine["peak_rss_bytes"] / peer["peak_rss_bytes"]
    return result, theirs[0]["versions"]


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def measure(args):
    if args.quick:
        args.steps, args.rounds = 2, 1
    for path in (args.model, args.program, args.text):
        if not path.is_file():
            raise Failure(f"{path}: no such file")
    python = setup(args.python)
    if args.folder is None:
        args.folder = CACHE / "peers" / (args.model.stem + ".transformers")
    result = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
              "command": " ".join(["benchmarks/peers/train_peer.py",
                                  *(pathlib.Path(word).name for word in args.command_line)]),
              "quick": args.quick, "threads": args.threads, "model": args.model.name,
              "machine": {"cpu": cpu(), "n_cpus": os.cpu_count(), "kernel": platform.release()},
              "load_before": os.getloadavg()[0],
              "settings": {"gists": GISTS, "recent": RECENT, "sink": SINK, "lora_rank": RANK,
                           "sequence": args.length, "batch": 1, "peer_type": "bf16",
                           "steps": args.steps, "rounds": args.rounds}}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, pathlib.Path(folder))
        # Long enough for a window, short enough to be tokenised in no time.
        run.train("tokens", 1, "gists", rate=0.0, max_tokens=2 * args.length, length=64)
        inspected = json.loads(call([args.program, "inspect", args.model, "--json"]))
        n_vocab = inspected["config"]["n_vocab"]
        stream = cut(run.stream(), args.length)
        if len(stream) < args.length // 2:
            raise Failure(f"{args.text}: its beginning fills {len(stream)} of {args.length} rows")
        result["comparisons"] = []
        for lora_rows in args.lora_rows:
            found, result["versions"] = compare(args, python, run, stream, n_vocab, lora_rows)
            result["comparisons"].append(found)
    result["load_after"] = os.getloadavg()[0]
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for c in result["comparisons"]:
        for side, name in (("ours", "keeping activations"), ("ours_recomputing", "recomputing")):
            mine, peer = c[side], c["peer"]
            print(f"LoRA on {c['lora_rows']} rows, {c['rows']} rows a step, {name}: "
                  f"{mine['tokens_per_second_median']:.0f} against "
                  f"{peer['tokens_per_second_median']:.0f} tokens/s (median), "
                  f"{mine['times_the_speed']:.2f} times; "
                  f"{mine['peak_rss_bytes'] / 1e9:.2f} against "
                  f"{peer['peak_rss_bytes'] / 1e9:.2f} GB, {mine['share_of_memory']:.2f}")
    print(f"wrote {args.output}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("--text", type=pathlib.Path, required=True, help="a long .txt")
    verb.add_argument("--model", type=pathlib.Path,
                      default=CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf")
    verb.add_argument("--program", type=pathlib.Path,
                      default=ROOT / "build" / "release" / "gistkv-onednn")
    verb.add_argument("--python", type=pathlib.Path, help="one that has " + ", ".join(PACKAGES))
    verb.add_argument("--folder", type=pathlib.Path, help="the model for transformers")
    verb.add_argument("--length", type=int, default=1024)
    verb.add_argument("--threads", type=int, default=2)
    verb.add_argument("--steps", type=int, default=5, help="of a round, the first not counted")
    verb.add_argument("--rounds", type=int, default=4)
    verb.add_argument("--lora-rows", nargs="+", choices=("all", "gists"),
                      default=["all", "gists"])
    verb.add_argument("--output", type=pathlib.Path,
                      default=ROOT / "benchmarks" / "results" / "train_peer.json")
    verb.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.command_line = sys.argv[1:]
    try:
        measure(args)
    except (Failure, OSError, json.JSONDecodeError) as failure:
        sys.exit(f"train_peer.py: {failure}")


main()
