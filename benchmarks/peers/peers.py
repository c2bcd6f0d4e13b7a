#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Compares gistkv with llama.cpp: one machine, one run, measurements taken in turn.

    peers.py setup             # llama.cpp in an environment of its own, and the model files
    peers.py run               # everything, one to three hours; writes benchmarks/results/peers.*
    peers.py run --quick       # a few small points, to see that all of it works
    peers.py report            # table, picture and docs page again, from peers.json

Both engines read the same token ids. Each measurement is a process of its own, so that memory can
be compared too. Settings (file type, flash attention, KV type; backend, element type, chunk) are
picked once, separately for prefill and decode, by the fastest median at 2048 tokens.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "gistkv"
PACKAGE = "llama-cpp-python==0.3.36"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MADE_TYPES = ("q8_0", "bf16")
PEER_ATTENTION = ((False, "f16"), (True, "f16"), (True, "f32"), (True, "bf16"), (True, "q8_0"))
N_CHECK = 512
PLANS = {
    "full": {"pick": 2048, "pick_repeat": 3, "tokens": 64, "rounds": 5, "long_rounds": 2,
             "attention": 5, "prefill": (512, 2048, 8192, 32768), "decode": (0, 8000, 32000)},
    "quick": {"pick": 64, "pick_repeat": 1, "tokens": 4, "rounds": 2, "long_rounds": 1,
              "attention": 2, "prefill": (64, 512), "decode": (0, 207)},
}
MOST_BUSY = 0.05
LONG = 8192  # Points beyond take part in `long_rounds` rounds only.


def note(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def call(command, environment=None):
    """The output of a command. The last line of its stderr becomes the error."""
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise report.Failure(f"{pathlib.Path(command[0]).name}: {lines[-1]}")
    return done.stdout


def environment_of_ours():
    """A spinning libgomp loses a core to every neighbour; after 1000 turns it sleeps instead."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    return {**kept, "GOMP_SPINCOUNT": "1000"}


def environment_of_peer():
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}


def setup(args):
    """Python of the peer's environment, and the model files by weight type."""
    folder = CACHE / "peers"
    python = folder / "venv" / "bin" / "python"
    want = PACKAGE.split("==")[1]
    version = [python, "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    try:
        found = call(version).strip()
    except (OSError, report.Failure):
        found = None
    if found != want:
        note(f"installing {PACKAGE} from source: some minutes")
        call([sys.executable, "-m", "venv", folder / "venv"])
        call([python, "-m", "pip", "install", "--quiet", PACKAGE])
    if not args.model.is_file():
        raise report.Failure(f"{args.model}: no such file; sh examples/setup.sh obtains the model")
    stem, _, own_type = args.model.stem.rpartition(".")
    files = {own_type.lower(): args.model}
    for weight_type in MADE_TYPES:
        path = folder / f"{stem}.{weight_type}.gguf"
        if weight_type in files:
            continue
        if not path.is_file() or path.stat().st_mtime < args.model.stat().st_mtime:
            note(f"making {path.name}")
            part = path.with_suffix(".part")
            task = {"task": "quantize", "model": str(args.model), "to": str(part),
                    "type": weight_type, "threads": args.threads}
            call([python, HERE / "llama.py", json.dumps(task)])
            part.replace(path)
        files[weight_type] = path
    return python, files


def find_engine(given):
    paths = [given] if given else [ROOT / "build" / b / "benchmarks" / "peers" /
                                   "gistkv_bench_engine" for b in ("release", "dev")]
    for path in paths:
        if path.is_file():
            return path
    raise report.Failure(f"{paths[0]}: no such file; cmake --preset release && cmake --build "
                         "build/release --target gistkv_bench_engine")


class Field:
    """Both engines, with what a measurement needs beside its setting."""

    def __init__(self, args, plan, folder):
        self.plan = plan
        self.threads = args.threads
        self.tries = 1 if args.busy or args.quick else 3
        self.python, self.files = setup(args)
        self.engine = find_engine(args.engine)
        n_ids = max(max(plan["prefill"]), plan["pick"] + plan["tokens"],
                    max(plan["decode"]) + plan["tokens"], N_CHECK)
        text = ["--text", args.text] if args.text else []
        self.text_options = text
        self.text = json.loads(call([self.engine, "--model", args.model, "--ids", n_ids, *text]))
        self.ids = pathlib.Path(folder) / "ids.json"
        self.ids.write_text(json.dumps(self.text.pop("ids")), encoding="ascii")
        self.version = self.text.pop("program")
        backends = self.version["backends"]
        fast = [b for b in backends if not b.startswith("eigen")]
        self.backends = args.backends or fast or backends
        self.chunks = args.chunks

    def ours(self, setting, mode, task, n, repeat=1):
        backend, element = setting["backend"].split()
        command = [self.engine, "--model", self.files[setting["file"]], "--backend", backend,
                   "--type", element, "--mode", mode, "--threads", self.threads,
                   "--chunk", setting["chunk"], "--repeat", repeat, f"--{task}", n,
                   "--tokens", self.plan["tokens"], *self.text_options]
        return json.loads(call(command, environment_of_ours()))

    def peer(self, setting, task, n, repeat=1):
        what = {"task": task, "model": str(self.files[setting["file"]]), "ids": str(self.ids),
                "n": n, "tokens": self.plan["tokens"], "flash": setting["flash"],
                "kv": setting["kv"], "threads": self.threads, "repeat": repeat}
        if task == "decode" and n > 0:
            name = f"{setting['file']}-{setting['flash']}-{setting['kv']}-{n}.state"
            what["state"] = str(self.ids.parent / name)
        command = [self.python, HERE / "llama.py", json.dumps(what)]
        return json.loads(call(command, environment_of_peer()))

    def measure(self, who, setting, task, n, repeat=1):
        """The engine's answer, and the share of all CPUs that other processes took meanwhile.

        What was disturbed is measured again, for either side; the least disturbed answer counts.
        """
        results = []
        for _ in range(self.tries):
            before = cpu_seconds()
            if who == report.PEER:
                result = self.peer(setting, task, n, repeat)
            else:
                result = self.ours(setting, who.split()[1], task, n, repeat)
            results.append({**result, "others": share(before, cpu_seconds(), "others")})
            if results[-1]["others"] <= MOST_BUSY:
                break
        return {**min(results, key=lambda r: r["others"]), "tries": len(results)}


def check(field):
    """Same file, same ids, same next token; what is timed must at least agree on that."""
    checked = []
    for file in field.files:
        theirs = field.peer({"file": file, "flash": True, "kv": "f16"}, "prefill", N_CHECK)
        for backend in field.backends:
            setting = {"backend": backend, "file": file, "chunk": field.chunks[0]}
            ours = field.ours(setting, "dense", "prefill", N_CHECK)
            checked.append({"file": file, "backend": backend, "next_token": ours["next_token"],
                            "next_token_peer": theirs["next_token"],
                            "margin_peer": theirs["next_margin"]})
            if ours["next_token"] != theirs["next_token"]:
                raise report.Failure(
                    f"after {N_CHECK} tokens of the {file} file {backend} says token "
                    f"{ours['next_token']}, llama.cpp {theirs['next_token']} (its logit is "
                    f"{theirs['next_margin']:.3f} above the next); nothing was timed")
    note(f"the next token after {N_CHECK} agrees in {len(checked)} settings")
    return checked


def pick(field):
    """The fastest setting of each side for each task, and all that was tried."""
    ours = [{"backend": b, "file": f, "chunk": c}
            for b in field.backends for f in field.files for c in field.chunks]
    peer = [{"file": f, "flash": flash, "kv": kv}
            for f in field.files for flash, kv in PEER_ATTENTION[:field.plan["attention"]]]
    tried, picks = [], {}
    for task in ("prefill", "decode"):
        picks[task] = {}
        for who, settings in ((report.DENSE, ours), (report.PEER, peer)):
            rates = []
            for setting in settings:
                if task == "decode" and setting.get("chunk", 0) != field.chunks[0] and (
                        who != report.PEER):
                    continue  # Chunks are a matter of prefill.
                n = field.plan["pick"]
                result = field.measure(who, setting, task, n, field.plan["pick_repeat"])
                rate = statistics.median(report.rates(result))
                tried.append({"who": who, "task": task, "n_text": n, "setting": setting,
                              "tokens_per_second": rate, "result": result})
                rates.append((rate, setting))
                note(f"pick {task} {who} {report.setting_text(setting)}: {rate:.0f}/s")
            picks[task][who] = max(rates, key=lambda r: r[0])[1]
        picks[task][report.SENTENCE] = picks[task][report.DENSE]
    return picks, tried


def rounds(field, picks, skip_long, save):
    """Short points first: those beyond LONG take most of the time, and may be cut off."""
    points = [(t, n) for t in ("prefill", "decode") for n in field.plan[t]]
    turns = [(r, *p) for r in range(field.plan["rounds"]) for p in points if p[1] <= LONG]
    if not skip_long:
        turns += [(r, *p) for r in range(field.plan["long_rounds"]) for p in points if p[1] > LONG]
    samples = []
    for r, task, n in turns:
        for who in (report.DENSE, report.PEER, report.SENTENCE):
            result = field.measure(who, picks[task][who], task, n)
            samples.append({"round": r, "who": who, "task": task, "n_text": n,
                            "setting": picks[task][who], "result": result})
            rate = statistics.median(report.rates(result))
            note(f"round {r + 1} {task} {n} {who}: {rate:.0f}/s")
        save(samples)
    return samples


def machine():
    info = {"cpu": platform.machine(), "n_cpus": os.cpu_count(), "kernel": platform.release()}
    with open("/proc/cpuinfo", encoding="utf-8") as cpus:
        for line in cpus:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                info["cpu"] = value.strip()
            if name.strip() == "flags":
                known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
                info["flags"] = [f for f in known if f in value.split()]
    info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return info


def cpu_seconds():
    """CPU seconds since boot: of all kinds, stolen by the host, used by processes not of ours."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(f) / os.sysconf("SC_CLK_TCK") for f in stat.readline().split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    mine = sum(os.times()[:4])
    return {"all": sum(fields), "steal": steal,
            "others": user + nice + system + irq + softirq - mine}


def share(before, after, kind):
    return max(after[kind] - before[kind], 0) / max(after["all"] - before["all"], 1e-3)


def busy_share():
    """Share of the CPUs that others use just now."""
    before = cpu_seconds()
    time.sleep(3)
    return share(before, cpu_seconds(), "others")


def commit():
    try:
        name = call(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).strip()
        changed = call(["git", "-C", ROOT, "status", "--porcelain", "--", "include", "backends"])
        return name + (" with changes" if changed.strip() else "")
    except (OSError, report.Failure):
        return "unknown"


def run(args):
    plan = dict(PLANS["quick" if args.quick else "full"])
    plan["rounds"] = args.rounds or plan["rounds"]
    plan["long_rounds"] = args.long_rounds or plan["long_rounds"]
    plan["tokens"] = args.tokens or plan["tokens"]
    ceilings = report.read_ceilings(args.ceilings)
    if args.docs:
        report.read_page(args.docs)
    busy = busy_share()
    if busy > MOST_BUSY and not (args.busy or args.quick):
        raise report.Failure(f"other processes use {busy:.0%} of the CPUs, want at most "
                             f"{MOST_BUSY:.0%}; --busy measures all the same")
    with tempfile.TemporaryDirectory() as folder:
        field = Field(args, plan, folder)
        if field.version["assertions"]:
            note("the engine was compiled with assertions: figures will be too low")
        command = ["benchmarks/peers/peers.py", *(pathlib.Path(a).name if "/" in a else a
                                                  for a in sys.argv[1:])]
        results = {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(command), "quick": args.quick, "plan": plan,
            "threads": args.threads, "machine": machine(), "busy_before": busy,
            "versions": {"gistkv": field.version, "commit": commit(), "peer_package": PACKAGE,
                         "python": platform.python_version()},
            "model": args.model.name,
            "file_bytes": {t: p.stat().st_size for t, p in field.files.items()},
            "text": field.text, "ceilings": ceilings, "complete": False}
        before = cpu_seconds()

        def save(samples, complete=False):
            results["steal"] = share(before, cpu_seconds(), "steal")
            results["samples"] = samples
            results["complete"] = complete
            report.write_json(args.out, results)

        results["check"] = check(field)
        results["picks"], results["candidates"] = pick(field)
        results["versions"]["peer_system"] = results["candidates"][-1]["result"]["system"]
        save(rounds(field, results["picks"], args.skip_long, save), complete=True)
    report.rebuild(args.out, args.docs)


def rebuild(args):
    results = report.read_json(args.out)
    if args.ceilings:
        results["ceilings"] = report.read_ceilings(args.ceilings)
        report.write_json(args.out, results)
    report.rebuild(args.out, args.docs)


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}', want a number from 1 on")
    return int(text)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="setup|run|report")
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--model", type=pathlib.Path, default=CACHE / MODEL, metavar="FILE",
                       help="GGUF file that both read; others are made from it")
    files.add_argument("--threads", type=positive, default=2)
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=pathlib.Path, metavar="DIR",
                     help="folder of the results (benchmarks/results; with --quick: build/peers)")
    out.add_argument("--docs", type=pathlib.Path, metavar="FILE",
                     help="page whose table is replaced (docs/results.md; with --out: none)")
    out.add_argument("--ceilings", type=pathlib.Path, metavar="FILE",
                     help='JSON with measured peaks: {"bf16_gflops": x, "bandwidth_gbs": y}')
    verbs.add_parser("setup", parents=[files], help="install the peer, make the model files")
    one = verbs.add_parser("run", parents=[files, out], help="measure everything")
    one.add_argument("--quick", action="store_true", help="a few small points")
    one.add_argument("--engine", type=pathlib.Path, metavar="FILE",
                     help="gistkv_bench_engine (default: of build/release, then build/dev)")
    one.add_argument("--text", type=pathlib.Path, metavar="FILE",
                     help="text to read (default: the licences of a Debian system)")
    one.add_argument("--backends", nargs="+", metavar="'BACKEND TYPE'",
                     help="ours to try (default: all that are built, eigen only if alone)")
    one.add_argument("--chunks", nargs="+", type=positive, default=[512], metavar="N",
                     help="chunk lengths of ours to try (512)")
    one.add_argument("--busy", action="store_true", help="measure on a machine that is not idle")
    one.add_argument("--rounds", type=positive, help="rounds up to 8192 tokens (5)")
    one.add_argument("--long-rounds", type=positive, help="rounds beyond (2)")
    one.add_argument("--tokens", type=positive, help="tokens that a decode measures (64)")
    one.add_argument("--skip-long", action="store_true", help="nothing beyond 8192 tokens")
    verbs.add_parser("report", parents=[out], help="table, picture and page from peers.json")
    args = parser.parse_args()
    if args.verb != "setup":
        if args.out is None and not getattr(args, "quick", False):
            args.docs = args.docs or ROOT / "docs" / "results.md"
        quick = getattr(args, "quick", False)
        args.out = args.out or (ROOT / "build" / "peers" if quick else report.RESULTS)
    return args


def main():
    args = parse()
    try:
        {"setup": setup, "run": run, "report": rebuild}[args.verb](args)
    except (report.Failure, OSError) as failure:
        sys.exit(f"peers.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("peers.py: interrupted")


if __name__ == "__main__":
    main()
