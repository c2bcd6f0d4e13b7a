#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""questions.py GISTKV MODEL ADAPTER [TOKENS [FIRST]]: how many of questions.tsv (a question, a tab, strings
between |), or of its FIRST lines, are answered from /usr/share/common-licenses/BSD by the full cache, by gists
with no raw sentence, behind TOKENS of the text at most (16), and by these with zeros in place of the gists. An
answer counts if it holds one of the strings, in any case."""

import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
TEXT = "/usr/share/common-licenses/BSD"


def main():
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    program, model, adapter = sys.argv[1:4]
    tokens = sys.argv[4] if len(sys.argv) > 4 else "16"
    first = int(sys.argv[5]) if len(sys.argv) > 5 else None
    gisted = ["--recent", "0", "--segmenter", f"paper,before,max_length:{tokens}"]
    lines = (HERE / "questions.tsv").read_text(encoding="utf-8").splitlines()
    asked = [line.split("\t") for line in lines[:first]]
    made_with = ["--model", model, "--adapter", adapter]

    def right(source, *layout):
        """Whether each question is answered."""
        command = [program, "ask", source, *(q for q, _ in asked), *made_with, *layout,
                   "--max-tokens", "24", "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        answers = [a["text"].lower() for a in json.loads(done.stdout)["answers"]]
        return [any(s in a for s in strings.split("|")) for a, (_, strings) in zip(answers, asked)]

    with tempfile.TemporaryDirectory() as folder:
        gists, zeroed = f"{folder}/gists.gkv", f"{folder}/zeroed.gkv"
        subprocess.run([program, "compress", TEXT, "-o", gists, *made_with, *gisted], check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, HERE / "../../../docs/quality/zero_gists.py", gists, zeroed],
                       check=True)
        full = right(TEXT, "--method", "full")
        for name, found in (("full", full), ("gists", right(gists, *gisted)),
                            ("zeroed", right(zeroed, *gisted))):
            both = sum(a and b for a, b in zip(full, found))
            print(f"{name:8} {sum(found):3} of {len(asked)}, of those that the full cache answers {both}")


if __name__ == "__main__":
    main()
