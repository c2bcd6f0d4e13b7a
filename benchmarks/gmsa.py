# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Soft tokens against the whole prompt, from the text to the last token of the answer.

    python3 benchmarks/gmsa.py PROGRAM MODEL TEXT [--tokens 2048,8000] [--rate 4] [--questions 10]

PROGRAM is a gistkv program. For each length the beginning of TEXT that has so many tokens is asked
one question with 32 tokens of answer, once with --method full and once with --method gmsa. Beside
the gain stands its ceiling: how many times fewer multiplications reading takes, counted from the
model's extents (30 layers over n tokens against 8 over n, one over n / rate and 30 over n / rate).
Then what a further question costs on a context that is kept, and its ceiling: the bytes that the
steps of an answer read, weights and cache. Times are the median of the runs, which take turns.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile


def run(program, *arguments):
    done = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)


def flops(c, n, layers):
    """Multiplications and additions of so many layers over n tokens."""
    d, heads, kv, width = c["d_model"], c["n_heads"], c["n_kv_heads"], c["head_dim"]
    linear = 2 * (2 * d * heads * width + 2 * d * kv * width + 3 * d * c["d_ff"])
    return layers * (n * linear + 4 * heads * width * n * (n + 1) / 2)


def begin_of(text, n, program, model, folder):
    """The beginning of a text with n tokens, found by its share of bytes."""
    path = os.path.join(folder, "text")
    size = 6 * n
    for _ in range(8):
        with open(path, "wb") as f:
            f.write(text[:size].decode("utf-8", "ignore").encode())
        found = len(run(program, "tokenize", path, "--model", model)["ids"])
        if abs(found - n) <= max(2, n // 500):
            return path, found
        size = int(size * n / found)
    return path, found


def answer_seconds(report):
    return [a["seconds"] for a in report["answers"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", default="2048,8000")
    parser.add_argument("--rate", type=int, default=4)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunk", default="512")
    o = parser.parse_args()
    with open(o.text, "rb") as f:
        text = f.read()
    model_report = run(o.program, "inspect", o.model)
    config = model_report["config"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in map(int, o.tokens.split(",")):
            path, found = begin_of(text, n, o.program, o.model, folder)
            saved = os.path.join(folder, "x.gkv")
            model = ["--model", o.model, "--chunk", o.chunk]
            answer = ["--max-tokens", "32", "--ignore-eos", *model]
            soft = ["--method", "gmsa", "--rate", str(o.rate)]
            times = {"full": [], "gmsa": [], "full, many": [], "gmsa, many": []}
            many = [f"What is said about number {i}?" for i in range(o.questions)]
            for _ in range(o.runs):
                full = run(o.program, "ask", path, *many, "--method", "full", *answer)
                seconds = answer_seconds(full)
                times["full"].append(full["seconds"] + seconds[0])
                times["full, many"].append(sum(seconds) / len(seconds))
                made = run(o.program, "compress", path, "-o", saved, *soft, *model)
                again = run(o.program, "ask", saved, *many, *answer)
                seconds = answer_seconds(again)
                times["gmsa"].append(made["seconds"] + again["seconds_soft"] + seconds[0])
                times["gmsa, many"].append(sum(seconds) / len(seconds))
            median = {k: statistics.median(v) for k, v in times.items()}
            m = -(-found // o.rate)
            n_layers = config["n_layers"]
            read = flops(config, found, n_layers)
            encoder = flops(config, found, made["encoder_layers"])
            ceiling = read / (encoder + flops(config, m, 1) + flops(config, m, n_layers))
            weights = sum(w["n_bytes"] for w in model_report["weights"])
            bytes_full, bytes_soft = full["kv_bytes_held"], again["kv_bytes_held"]
            rows.append({
                "tokens": found, "soft": m, "rate": o.rate,
                "seconds_full": median["full"], "seconds_gmsa": median["gmsa"],
                "gain": median["full"] / median["gmsa"], "ceiling": ceiling,
                "compress": made["seconds"], "read_soft": again["seconds_soft"],
                "read_full": full["seconds"],
                "question_full": median["full, many"], "question_gmsa": median["gmsa, many"],
                "gain_question": median["full, many"] / median["gmsa, many"],
                "ceiling_question": (weights + bytes_full) / (weights + bytes_soft),
                "kv_bytes_full": bytes_full, "kv_bytes_gmsa": bytes_soft,
                "soft_bytes": made["soft_bytes"],
                "backend": full["backend"], "cache_type": full["cache_type"],
                "threads": full["threads"], "instruction_set": full["instruction_set"]})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(f"{'tokens':>7} {'full s':>8} {'gmsa s':>8} {'gain':>6} {'ceiling':>8}   "
          f"{'a question: full s':>18} {'gmsa s':>8} {'gain':>6} {'ceiling':>8}   "
          f"{'KV full':>10} {'gmsa':>10}")
    for r in rows:
        print(f"{r['tokens']:7d} {r['seconds_full']:8.2f} {r['seconds_gmsa']:8.2f} "
              f"{r['gain']:6.2f} {r['ceiling']:8.2f}   {r['question_full']:18.2f} "
              f"{r['question_gmsa']:8.2f} {r['gain_question']:6.2f} {r['ceiling_question']:8.2f}   "
              f"{r['kv_bytes_full']:10d} {r['kv_bytes_gmsa']:10d}")


if __name__ == "__main__":
    main()
