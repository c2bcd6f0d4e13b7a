# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Table, picture and docs page from peers.json. Numbers come from there and from nowhere else."""
import json
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"
DENSE, SENTENCE, PEER = "gistkv dense", "gistkv sentence", "llama.cpp"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
MIB = 1 << 20


class Failure(Exception):
    """Ends the program with one line."""


def read_json(folder):
    path = folder / "peers.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise Failure(f"{path}: no such file; peers.py run makes it") from missing
    except json.JSONDecodeError as wrong:
        raise Failure(f"{path}: {wrong}") from wrong


def replace_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_json(folder, results):
    replace_file(folder / "peers.json", json.dumps(results, indent=1) + "\n")


def read_ceilings(path):
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {k: float(found[k]) for k in ("bf16_gflops", "bandwidth_gbs")}
    except (KeyError, TypeError, ValueError) as wrong:
        want = '{"bf16_gflops": x, "bandwidth_gbs": y}'
        raise Failure(f"{path}: {wrong!r}, want {want}") from wrong


def rates(result):
    """Text tokens per second of each timed run in one answer of an engine."""
    n = result["n_text"] if result["task"] == "prefill" else result["n_tokens"]
    return [n / s for s in result["seconds"]]


def setting_text(setting):
    if "flash" in setting:
        return f"{setting['file']}, -fa {'on' if setting['flash'] else 'off'}, KV {setting['kv']}"
    return f"{setting['file']}, {setting['backend']}, chunk {setting['chunk']}"


class Samples:
    def __init__(self, results):
        self.all = results["samples"]

    def of(self, who, task, n):
        return [s["result"] for s in self.all
                if (s["who"], s["task"], s["n_text"]) == (who, task, n)]

    def rate(self, who, task, n):
        """Median, least and greatest rate, and their number; None if there is none."""
        found = [r for result in self.of(who, task, n) for r in rates(result)]
        return (statistics.median(found), min(found), max(found), len(found)) if found else None

    def points(self, task):
        return sorted({s["n_text"] for s in self.all if s["task"] == task})


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}"


def times(a, b):
    return f"{a / b:.2f}x" if a and b else "-"


def markdown(rows):
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in body])


def point_name(task, n):
    return f"prefill of {n:,}" if task == "prefill" else f"decode behind {n:,}"


def speed_table(samples):
    rows = [["text tokens per second: median (least - greatest)", PEER, DENSE, "times",
             SENTENCE, "times", "runs"]]
    for task in ("prefill", "decode"):
        for n in samples.points(task):
            found = [samples.rate(who, task, n) for who in (PEER, DENSE, SENTENCE)]
            cells = [f"{number(r[0])} ({number(r[1])} - {number(r[2])})" if r else "-"
                     for r in found]
            middle = [r[0] if r else None for r in found]
            rows.append([point_name(task, n), cells[0], cells[1], times(middle[1], middle[0]),
                         cells[2], times(middle[2], middle[0]),
                         str(min(r[3] for r in found if r))])
    return markdown(rows)


def memory_table(samples):
    n = max(samples.points("prefill"), default=None)
    if n is None:
        return ""
    rows = [[f"MiB, reading {n:,}", PEER, DENSE, SENTENCE]]
    found = [samples.of(who, "prefill", n) for who in (PEER, DENSE, SENTENCE)]

    def row(name, value, text):
        cells = [statistics.median(map(value, f)) if f else None for f in found]
        rows.append([name] + [text(c, cells[0]) if c is not None else "-" for c in cells])

    def mib(x, _):
        return number(x / MIB)

    def beyond(r):
        return r["rss_peak_behind_load"] - r["rss_loaded"]

    row("KV held at the end", lambda r: r["kv_bytes_held"], mib)
    row("resident once the model is loaded", lambda r: r["rss_loaded"], mib)
    row("peak behind that", lambda r: r["rss_peak_behind_load"], mib)
    row("peak beyond the loaded model", beyond, mib)
    row("the same, times llama.cpp", beyond, times)
    row("peak of the whole process", lambda r: r["rss_peak"], mib)
    return markdown(rows)


def formula_line(samples):
    ours = [s["result"] for s in samples.all if s["who"] != PEER]
    exact = sum(r["kv_bytes_held"] == r["kv_bytes_formula"] for r in ours)
    return (f"The bytes of keys and values held equal the method's formula in {exact} of "
            f"{len(ours)} measurements.")


def close_table(samples):
    rows = [["ms, sentence mode", "decode step", "close step", "close / decode", "close steps"]]
    for n in samples.points("decode"):
        results = samples.of(SENTENCE, "decode", n)
        pairs = [(p, c) for r in results
                 for p, c in zip(r["seconds_plain_step"], r["seconds_close_step"]) if c]
        if not pairs:
            continue
        plain, close = (statistics.median(column) for column in zip(*pairs))
        rows.append([f"behind {n:,}", f"{plain * 1e3:.2f}", f"{close * 1e3:.2f}",
                     f"{close / plain:.2f}x", str(sum(r["n_close_steps"] for r in results))])
    return markdown(rows) if len(rows) > 1 else ""


def floor_table(samples, ceilings):
    """Time over the least time that the measured peaks allow for the operations or bytes."""
    rows = [["time over floor", DENSE, SENTENCE]]
    for task in ("prefill", "decode"):
        for n in samples.points(task):
            cells = []
            for who in (DENSE, SENTENCE):
                results = samples.of(who, task, n)
                if not results:
                    cells.append("-")
                    continue
                seconds = statistics.median(s for r in results for s in r["seconds"])
                r = results[0]
                if task == "prefill":
                    work = r["gflop_linear"] + r["gflop_attention"]
                    floor = work / ceilings["bf16_gflops"]
                    cells.append(f"{seconds / floor:.2f}x ({floor / seconds:.0%} of peak)")
                else:
                    floor = r["gb_floor"] / ceilings["bandwidth_gbs"]
                    cells.append(f"{seconds / floor:.2f}x ({1e3 * floor / r['n_tokens']:.2f} ms)")
            rows.append([point_name(task, n), *cells])
    return markdown(rows)


def memory_line(results):
    kv = results["picks"]["prefill"][PEER]["kv"]
    return ("llama.cpp was fastest with KV f32, which takes twice the memory of its default f16."
            if kv == "f32" else "")


def sentence_line(samples):
    n = max(samples.points("prefill"), default=None)
    results = samples.of(SENTENCE, "prefill", n) if n else []
    if not results or not results[0]["n_gist"]:
        return ""
    r = results[0]
    sentences = r["n_gist"] / 4
    return (f"The first {n:,} tokens of the text have {sentences:,.0f} sentences "
            f"({n / sentences:.1f} tokens each), so {r['n_rows'] / n:.3f} rows are read for a text "
            "token.")


def head(results):
    machine, versions = results["machine"], results["versions"]
    ours = versions["gistkv"]
    others = [s["result"]["others"] for s in results["samples"]]
    lines = [
        f"Machine: {machine['cpu']}, {machine['n_cpus']} CPUs, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}; "
        f"{', '.join(machine.get('flags', []))}. Both engines: {results['threads']} threads.",
        f"Date: {results['date']}. CPU time that other processes took during a measurement: "
        f"{statistics.median(others):.1%}, at most {max(others):.1%}; that the host took: "
        f"{results['steal']:.1%}.",
        f"Versions: gistkv {ours['version']} ({versions['commit']}), compiler {ours['compiler']}, "
        f"compiled for {ours['compiled_for']}"
        f"{', with assertions' if ours['assertions'] else ''}; "
        f"{versions['peer_package'].replace('==', ' ')}.",
        f"Model: {results['model']}; files of type "
        + ", ".join(f"{t} ({b / 1e6:.0f} MB)" for t, b in results["file_bytes"].items()) + ".",
    ]
    for task, picks in results["picks"].items():
        lines.append(f"Settings for {task}: " + "; ".join(
            f"{who}: {setting_text(s)}" for who, s in picks.items() if who != SENTENCE) + ".")
    if results["quick"]:
        lines.append("**A quick run that only shows that all of it works.**")
    if not results["complete"]:
        lines.append("**The run was interrupted: points or rounds are missing.**")
    return "\n".join(f"- {line}" for line in lines) + f"\n- Command: `{results['command']}`"


def table(results):
    samples = Samples(results)
    if not samples.all:
        raise Failure("peers.json has no samples; peers.py run measures them")
    parts = [head(results), speed_table(samples), sentence_line(samples), memory_table(samples),
             memory_line(results), formula_line(samples), close_table(samples)]
    if results["ceilings"]:
        c = results["ceilings"]
        parts += [floor_table(samples, c),
                  f"Floors: {number(c['bf16_gflops'])} GFLOP/s of bf16 products for prefill, "
                  f"{number(c['bandwidth_gbs'])} GB/s for the weights and the KV that a decode "
                  "step reads, both measured on the same machine."]
    return "\n\n".join(p for p in parts if p) + "\n"


STYLE = """
svg { font: 12px system-ui, sans-serif; }
.page { fill: #ffffff; } .ink { fill: #24292f; } .soft { fill: #57606a; }
.axis { stroke: #8c959f; } .a { fill: #8c959f; } .b { fill: #2f6fb7; } .c { fill: #c8641e; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9da7b3; }
  .axis { stroke: #6e7681; } .a { fill: #6e7681; } .b { fill: #539bf5; } .c { fill: #e0823d; }
}
""".strip()
SERIES = ((PEER, "a"), (DENSE, "b"), (SENTENCE, "c"))
BAR, GAP, TOP, HEIGHT, LEFT = 34, 26, 112, 230, 24


def short(x):
    return f"{x / 1000:.1f}k" if x >= 1000 else f"{x:.0f}"


def panel(samples, task, left):
    """One group of bars a point, from zero, with the numbers on them. Gives markup and width."""
    groups = [(n, [samples.rate(who, task, n) for who, _ in SERIES]) for n in samples.points(task)]
    most = max((r[0] for _, g in groups for r in g if r), default=1)
    out, x, base = [], left, TOP + HEIGHT
    for n, group in groups:
        for (_, kind), rate in zip(SERIES, group):
            if rate:
                h = HEIGHT * rate[0] / most
                out.append(f'<rect class="{kind}" x="{x}" y="{base - h:.1f}" width="{BAR - 3}" '
                           f'height="{h:.1f}"/>')
                out.append(f'<text class="ink" x="{x + (BAR - 3) / 2}" y="{base - h - 4:.1f}" '
                           f'text-anchor="middle">{short(rate[0])}</text>')
            x += BAR
        out.append(f'<text class="soft" x="{x - 1.5 * BAR}" y="{base + 17}" '
                   f'text-anchor="middle">{n:,}</text>')
        x += GAP
    right = max(x - GAP, left + 170)
    out.append(f'<line class="axis" x1="{left}" y1="{base}" x2="{right}" y2="{base}"/>')
    title = "Prefill, tokens of text" if task == "prefill" else "Decode, behind tokens of text"
    out.append(f'<text class="ink" x="{left}" y="{TOP - 22}" font-weight="600">{title}</text>')
    return out, right


def picture(results):
    samples = Samples(results)
    first, right = panel(samples, "prefill", LEFT)
    second, right = panel(samples, "decode", right + 3 * GAP)
    width, height = max(right, 560) + LEFT, TOP + HEIGHT + 36
    title = "Text tokens per second"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" role="img" aria-label="{title}">',
           f"<style>{STYLE}</style>",
           f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
           f'<text class="ink" x="{LEFT}" y="28" font-size="15" font-weight="600">{title}</text>']
    x = LEFT
    for who, kind in SERIES:
        name = who if who != PEER else "llama.cpp, its best setting"
        out.append(f'<rect class="{kind}" x="{x}" y="42" width="11" height="11"/>')
        out.append(f'<text class="ink" x="{x + 17}" y="52">{name}</text>')
        x += 30 + 7 * len(name)
    return "\n".join(out + first + second + ["</svg>"]) + "\n"


def read_page(docs):
    """What stands in front of the generated part of a page, and behind it."""
    page = docs.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failure(f"{docs}: has no lines {BEGIN} and {END}")
    return before, after


def rebuild(folder, docs):
    results = read_json(folder)
    text = table(results)
    replace_file(folder / "peers.md", text)
    replace_file(folder / "peers.svg", picture(results))
    if docs is not None:
        before, after = read_page(docs)
        replace_file(docs, f"{before}{BEGIN}\n\n{text}\n{END}{after}")
