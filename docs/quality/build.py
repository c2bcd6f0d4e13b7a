#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""build.py [--program build/release/gistkv]: writes the figures of docs/quality.md anew from the
results beside this file (*.json, printed by `gistkv eval ... --json`), and with a program the pictures."""

import argparse
import json
import pathlib
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
page = here.parent / "quality.md"
begin, end = "<!-- quality: begin -->", "<!-- quality: end -->"

# What a table shows of a task: heading, metric, and how a value is written.
columns = {
    "ppl": [("perplexity", "ppl_regular", "{:.2f}"), ("times base", "ppl_ratio/base", "{:.3f}"),
            ("times full", "ppl_ratio/full", "{:.3f}"),
            ("times sag", "ppl_ratio/sag", "{:.3f}"), ("full / held", "kv_ratio_bytes", "{:.2f}"),
            ("MB held, mean", "kv_bytes_mean", "{:.2f}"),
            ("counting gists", "ppl_counting_gists", "{:.2f}")],
    "compression": [("tokens a gist", "ratio_tokens", "{:.2f}"),
                    ("full / held", "kv_ratio_bytes", "{:.2f}"),
                    ("MB held, mean", "kv_bytes_mean", "{:.2f}"),
                    ("MB, peak", "kv_bytes_peak", "{:.2f}")],
    "needle": [("recall", "needle_accuracy", "{:.2f}"),
               ("outside an equal window", "needle_accuracy_outside_window", "{:.2f}"),
               ("minus full", "needle_accuracy_difference/full", "{:+.2f}"),
               ("full / held", "kv_ratio_bytes", "{:.2f}")],
    "kv": [("recall", "kv_accuracy", "{:.2f}"), ("full / held", "kv_ratio_bytes", "{:.2f}")],
    "qa": [("exact match", "em", "{:.3f}"), ("F1", "f1", "{:.3f}"), ("contains", "contains", "{:.3f}"),
           ("full / held", "kv_ratio_bytes", "{:.2f}")],
    "mmlu": [("accuracy", "mmlu_accuracy", "{:.3f}"), ("agreement", "mmlu_agreement/full", "{:.3f}"),
             ("KL, nats", "mmlu_kl/full", "{:.3f}")],
    "choice": [("accuracy", "choice_accuracy", "{:.3f}"),
               ("by length", "choice_accuracy_by_length", "{:.3f}"),
               ("agreement", "choice_agreement/full", "{:.3f}"), ("KL, nats", "choice_kl/full", "{:.3f}")],
    "speed": [("prefill, tokens/s", "prefill_tokens_per_second", "{:.0f}"),
              ("seconds to first token", "seconds_first_token", "{:.2f}"),
              ("decode, tokens/s", "decode_tokens_per_second", "{:.0f}"),
              ("seconds in all", "seconds_end_to_end", "{:.2f}"),
              ("MB held", "kv_bytes_held", "{:.2f}"),
              ("prefill over floor", "prefill_time_over_floor", "{:.2f}"),
              ("decode over floor", "decode_time_over_floor", "{:.2f}")],
}
columns["longqa"] = columns["qa"]


def found(rows, method, metric):
    name, _, against = metric.partition("/")
    for row in rows:
        if row["metric"] == name and row["method"] == method:
            if against == row["settings"].get("against", ""):
                return row
    return None


def cell(row, form):
    if row is None:
        return ""
    scale = 1e6 if row["metric"].startswith("kv_bytes") else 1
    low, high = (x / scale for x in row["ci95"])
    text = form.format(row["value"] / scale)
    return text if low == high else f"{text} ({form.format(low)} - {form.format(high)})"


def command_of(rows):
    s = rows[0]["settings"]
    methods = ",".join(dict.fromkeys(r["method"] for r in rows))
    words = ["gistkv eval", s["task"], "--method", methods]
    if s["data"]:
        words += ["--data", s["data"]]
    for option in ("format", "contexts", "shots", "depths", "keys", "values", "lines", "max_tokens"):
        if s.get(option):
            words += ["--" + option.replace("_", "-"), str(s[option])]
    for flag in ("shift", "keep_lines", "shuffle_labels"):
        words += ["--" + flag.replace("_", "-")] if s.get(flag) else []
    words += ["--limit", str(s["limit"]), "--length", str(s["length"]), "--seed", str(s["seed"])]
    words += ["--windows", str(s["windows"])] if "windows" in s else []
    words += ["--budget", s["budget"]] if not s["budget"].startswith("as ") else []
    words += ["--segmenter", s["segmenter"], "--gists", str(s["gists"]), "--recent", str(s["recent"])]
    if any(r["metric"] == "ppl_by_position" for r in rows):
        words += ["--positions", str(sum(r["metric"] == "ppl_by_position" for r in rows) //
                                     len(set(r["method"] for r in rows)))]
    words += ["--past-context"] if s.get("past_context") else []
    words += ["--model", s["model"]] + (["--adapter", s["adapter"]] if s["adapter"] else [])
    return " ".join(words)


def verdicts(rows, task):
    """Where sag loses to a baseline, or wins, beyond what chance explains."""
    if task != "ppl":
        return []
    lines = []
    for name, holds in (("lower", lambda r: r["ci95"][1] < 1), ("higher", lambda r: r["ci95"][0] > 1)):
        methods = [r["method"] for r in rows if r["metric"] == "ppl_ratio" and r["method"] != "recent" and
                   r["settings"].get("against") == "sag" and holds(r)]
        if methods:
            lines.append(f"At the same bytes the perplexity of {', '.join(methods)} is {name} than that of sag"
                         " (95 % interval of the paired ratio).")
    recent = found(rows, "recent", "ppl_ratio/sag")
    if recent:
        low, high = recent["ci95"]
        is_worse = "higher" if low > 1 else "lower" if high < 1 else "not significantly another"
        lines.append(f"With the same raw rows and no gists (recent) perplexity is {is_worse} than with them.")
    return lines


def threads(machine):
    return f"{machine['threads']} thread" + ("s" if machine["threads"] > 1 else "")


def section(path):
    rows = json.loads(path.read_text())["rows"]
    if not rows:
        sys.exit(f"{path}: has no rows")
    s, m = rows[0]["settings"], rows[0]["machine"]
    task = s["task"]
    shown = [c for c in columns[task] if any(found(rows, r["method"], c[1]) for r in rows)]
    gists = "trained" if s["gist_rows"] == "trained" else "**untrained**"
    out = [f"### {path.stem}", "",
           f"{rows[0]['n']} samples, N_g = {s['gists']}, gist rows {gists}. {m['cpu']}, {threads(m)}, "
           f"backend {m['backend']}, cache {m['cache_type']}, gistkv {s['version']}.", "",
           f"    {command_of(rows)}", "",
           "| method | " + " | ".join(c[0] for c in shown) + " |", "| --- " * (len(shown) + 1) + "|"]
    for method in dict.fromkeys(r["method"] for r in rows):
        name = method
        if s["gist_rows"] != "trained" and method in ("sag", "uniform"):
            name += " (untrained gists)"
        out.append(f"| {name} | " + " | ".join(cell(found(rows, method, c[1]), c[2]) for c in shown) + " |")
    out += [""] + [line + "\n" for line in verdicts(rows, task)]
    return out


def types_section(name, paths):
    """One table of a task under several types of cache: NAME-f32.json, NAME-bf16.json and so on."""
    by_type = {}
    for path in paths:
        rows = json.loads(path.read_text())["rows"]
        by_type[rows[0]["machine"]["cache_type"]] = rows
    if "f32" not in by_type:
        sys.exit(f"{name}: has no {name}-f32.json to compare with")
    rows = by_type["f32"]
    m = rows[0]["machine"]
    ppl = rows[0]["settings"]["task"] == "ppl"
    out = [f"### {name}", "",
           f"{rows[0]['n']} samples, N_g = {rows[0]['settings']['gists']}, gist rows {rows[0]['settings']['gist_rows']}. "
           f"{m['cpu']}, {threads(m)}, backend {m['backend']}."]
    if ppl:
        out[-1] += (" Bytes a text token are those held at the rated tokens over the tokens of text before "
                    "them, both on average.")
    head = ["bytes a text token", "perplexity", "times f32"] if ppl else ["recall", "full / held"]
    out += ["", f"    {command_of(rows)} --cache-type TYPE", "",
            "| cache | factors of products | method | " + " | ".join(head) + " |",
            "| --- " * (3 + len(head)) + "|"]
    for kind in sorted(by_type, key=lambda k: ["f32", "bf16", "f16", "q8"].index(k)):
        for method in dict.fromkeys(r["method"] for r in rows):
            if ppl:
                row = found(by_type[kind], method, "ppl_regular")
                # The rated half of a text has as many tokens in front of it.
                before = 1.5 * row["settings"]["n_tokens"] / row["n"]
                held = found(by_type[kind], method, "kv_bytes_mean")["value"]
                ratio = row["value"] / found(rows, method, "ppl_regular")["value"]
                cells = [f"{held / before:.0f}", f"{row['value']:.3f}", f"{ratio:.5f}"]
            else:
                cells = [cell(found(by_type[kind], method, c[1]), c[2]) for c in columns["needle"]
                         if c[0] in head]
            out.append(f"| {kind} | {by_type[kind][0]['machine']['factor_type']} | {method} | "
                       + " | ".join(cells) + " |")
    return out + [""]


def pictures(path, task, program):
    kinds = {"ppl": ("bytes", "position"), "needle": ("needle",), "speed": ("time",)}.get(task, ())
    lines = []
    for kind in kinds:
        if kind == "position" and '"ppl_by_position"' not in path.read_text():
            continue
        picture = path.with_name(f"{path.stem}-{kind}.svg")
        if program:
            subprocess.run([program, "plot", str(path), "--kind", kind, "-o", str(picture)], check=True)
        if picture.exists():
            lines += [f"![{path.stem}, {kind}](quality/{picture.name})", ""]
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", help="draws the pictures")
    arguments = parser.parse_args()
    results = sorted(here.glob("*.json"))
    if not results:
        sys.exit(f"{here}: holds no results")
    lines = [begin, ""]
    by_task = {}
    types = {}
    for path in [p for p in results if p.stem.startswith("types-")]:
        types.setdefault(path.stem.rsplit("-", 1)[0], []).append(path)
    for path in [p for p in results if not p.stem.startswith("types-")]:
        by_task.setdefault(json.loads(path.read_text())["rows"][0]["settings"]["task"], []).append(path)
    for task, paths in by_task.items():
        lines += [f"## {task}", ""]
        for path in paths:
            lines += section(path) + pictures(path, task, arguments.program)
    if types:
        lines += ["## cache types", ""]
    for name, paths in types.items():
        lines += types_section(name, paths)
    lines.append(end)
    text = page.read_text()
    first, last = text.index(begin), text.index(end) + len(end)
    page.write_text(text[:first] + "\n".join(lines) + text[last:])


main()
