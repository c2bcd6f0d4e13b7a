#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""documents.py DATA OUT.jsonl LENGTHS MEGABYTES SEED TURNS [KIND=SHARE...]: documents that teach gists
to carry words, always the same ones for the same arguments.

Each is a list of parts, of which the second, fourth and so on are learned: what is asked for stands in
no other place than in sentences that have become gists. LENGTHS are those of texts in characters,
between commas, on average; texts are from a third of one to twice as long. TURNS says what follows what,
say whole,mix: a piece of a book as it stands, and one of the other kinds, and so on; recall:7000 is of that
kind, and of this length in place of LENGTHS. DATA holds
train_text/books_{0..7}.jsonl.zst (old books in the public domain) and squad/train.jsonl (SQuAD 1.1);
/usr/share/common-licenses gives a seventh of the prose, BSD excepted. Kinds and their shares of the mix,
in characters:

    restate    a text, and then the same text
    complete   a text, the beginnings of some of its sentences, each with what followed
    recall     keys with numbers or words among sentences of a book, and questions
    follow     a text and, in the chat template, what comes behind some of its words
    question   paragraphs and questions of SQuAD in the model's chat template
    whole      a text without a question, all of it learned: 3,600 to 6,600 characters

Needs zstdcat."""

import json
import pathlib
import random
import re
import subprocess
import sys
import textwrap

SYSTEM = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
          "<|im_end|>\n")
SHARES = {"restate": 0.2, "complete": 0.2, "recall": 0.3, "follow": 0.15, "question": 0.15}
FOLLOW = ('What follows "{}" in the text?', 'What comes after "{}"?', 'Which words come after "{}"?',
          'How does the text go on after "{}"?', 'In the text, what follows "{}"?')
ORDERS = ("Repeat the text above.", "Repeat the text.", "What does the text say?",
          "Write the text once more:", "The same text again:")


def user(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def sentences_of(text):
    """Sentences of 4 to 60 words, as they stand."""
    found = re.split(r"(?<=[.?!])\s+", " ".join(text.split()))
    return [s for s in found if 4 <= len(s.split()) <= 60]


class Source:
    def __init__(self, data, seed, lengths):
        self.random = random.Random(seed)
        self.lengths = lengths
        licences = pathlib.Path("/usr/share/common-licenses")
        self.licences = [p.read_text(encoding="utf-8", errors="replace")
                         for p in sorted(licences.iterdir())
                         if not p.is_symlink() and p.name != "BSD"]
        self.books = []
        self.words = set()
        for number in range(8):
            path = f"{data}/train_text/books_{number}.jsonl.zst"
            with subprocess.Popen(["zstdcat", path], stdout=subprocess.PIPE) as unpacked:
                for _, line in zip(range(24), unpacked.stdout):
                    text = json.loads(line)["text"]
                    begin = text.find("\n", 2 * len(text) // 5) + 1
                    piece = text[begin:begin + 60000]
                    self.books.append(piece)
                    self.words.update(w for w in piece.lower().split()
                                      if w.isalpha() and w.isascii() and 4 <= len(w) <= 8)
                unpacked.kill()
        self.words = sorted(self.words)
        with open(f"{data}/squad/train.jsonl", encoding="utf-8") as lines:
            self.articles = [json.loads(line)["paragraphs"] for line in lines]

    def n_characters(self):
        return int(self.random.choice(self.lengths) * self.random.choice([0.35, 0.5, 0.7, 1.0, 1.4, 2.0]))

    def prose(self, size):
        """Consecutive sentences of about `size` characters, of a book or an article."""
        r = self.random
        while True:
            drawn = r.random()
            if drawn < 0.6:
                book = r.choice(self.books if drawn > 0.15 else self.licences)
                begin = book.find(". ", r.randrange(max(1, len(book) - size - 500))) + 2
                text = book[begin:begin + size + 400]
            else:
                article = r.choice(self.articles)
                k = r.randrange(len(article))
                text = " ".join(p["context"].strip() for p in article[k:k + 1 + size // 600])
            chosen = []
            for s in sentences_of(text):
                chosen.append(s)
                if sum(len(c) for c in chosen) > size:
                    break
            if sum(len(c) for c in chosen) > 0.5 * size:
                return chosen

    def name(self):
        return "-".join(self.random.sample(self.words, 3))

    def value(self, kind):
        if kind == "number":
            return str(self.random.randint(1, 10**self.random.choice([1, 2, 3, 4, 5, 6, 7, 7])))
        return self.name() if self.random.random() < 0.6 else self.random.choice(self.words)

    def context(self, text, question, chat):
        """The first part of a document and the frame of later questions."""
        if chat:
            return SYSTEM + user(f"{text}\n\n{question}")
        return f"{text}\n\n{question}\n"

    def wrapped(self, text):
        """A third of the texts in lines of equal width, as in plain files."""
        if self.random.random() > 0.35:
            return text
        return textwrap.fill(text, self.random.randint(66, 78))

    def further(self, question):
        """A later question of a document in the chat template."""
        return f"\n{user(question)}"

    def restate(self):
        text = " ".join(self.prose(self.n_characters()))
        if self.random.random() < 0.15:  # Words without sense cannot be guessed.
            text = " ".join(self.random.choices(self.words, k=max(6, len(text) // 12))) + "."
        chat = self.random.random() < 0.3
        return [self.context(text, self.random.choice(ORDERS), chat),
                text + ("<|im_end|>" if chat else "")]

    def complete(self):
        chosen = self.prose(int(1.5 * self.n_characters()))
        asked = self.random.sample(chosen, min(len(chosen), self.random.randint(1, 4)))
        document = [" ".join(chosen)]
        for sentence in asked:
            words = sentence.split()
            k = self.random.randint(2, max(2, min(8, len(words) // 2)))
            document[-1] += "\n\n" + " ".join(words[:k])
            document += [" " + " ".join(words[k:]), ""]
        return document[:-1]

    def follow(self):
        r = self.random
        chosen = self.prose(self.n_characters())
        long = [s for s in chosen if len(s.split()) >= 8]
        document = []
        for sentence in r.sample(long, min(len(long), r.randint(2, 7))):
            words = sentence.split()
            n_cue = r.randint(3, 6)
            begin = 0 if r.random() < 0.4 else r.randint(0, len(words) - n_cue - 1)
            question = r.choice(FOLLOW).format(" ".join(words[begin:begin + n_cue]))
            answer = " ".join(words[begin + n_cue:begin + n_cue + r.randint(3, 8)])
            document.append(self.further(question) if document else
                            self.context(self.wrapped(" ".join(chosen)), question, True))
            document.append(answer.rstrip(".,;:") + ".<|im_end|>")
        return document or self.follow()

    def recall(self):
        r = self.random
        kind = r.choice(["number", "number", "number", "word", "words"])
        keys, values, lines = [], [], []

        def hide(n):
            hidden = [self.name() for _ in range(n)]
            told = [self.value(kind) for _ in range(n)]
            keys.extend(hidden)
            values.extend(told)
            lines.extend(f"One of the special magic {kind.rstrip('s')}s for {k} is: {v}."
                         if r.random() < 0.8 else
                         r.choice([f"The {kind.rstrip('s')} of {k} is {v}.", f"{k}: {v}."])
                         for k, v in zip(hidden, told))

        hide(r.choice([2, 3, 4, 5, 6]))
        size = int(1.2 * self.n_characters()) - sum(len(x) for x in lines)
        if size > 8700:  # So long a text is worth more questions.
            hide(size // 1500)
        if size > 60:
            filler = self.prose(size)
            for line in lines:
                filler.insert(r.randint(0, len(filler)), line)
            lines = filler
        document = []
        chat = r.random() < 0.4
        order = list(range(len(keys)))
        r.shuffle(order)
        for n, i in enumerate(order):
            what = f"special magic {kind.rstrip('s')} for {keys[i]}"
            question = f"What is the {what} mentioned in the text? The {what} is:"
            if n == 0:
                text = ("\n" if r.random() < 0.5 else " ").join(lines)
                document = [self.context(text, question, chat).rstrip("\n")
                            if not chat else self.context(text, question, chat)]
            else:
                document.append(self.further(question) if chat else f"\n\n{question}")
            document.append(f" {values[i]}." if not chat else f"{values[i]}.<|im_end|>")
        return document

    def question(self):
        r = self.random
        while True:
            article = r.choice(self.articles)
            size = 1.3 * self.n_characters()
            k = r.randrange(len(article))
            chosen, n = [], 0
            while k < len(article) and (not chosen or n + len(article[k]["context"]) < size):
                chosen.append(article[k])
                n += len(article[k]["context"])
                k += 1
            if n > 2.5 * size + 400:
                continue
            pairs = []
            for paragraph in chosen:
                for qa in paragraph["qas"]:
                    if qa["answers"]:
                        answer = qa["answers"][0]
                        answer = answer if isinstance(answer, str) else answer["text"]
                        pairs.append((qa["question"].strip(), answer.rstrip(".")))
            if not pairs:
                continue
            r.shuffle(pairs)
            text = "\n".join(self.wrapped(p["context"].strip()) for p in chosen)
            document = []
            for n, (asked, answer) in enumerate(pairs[:r.randint(3, 8)]):
                document.append(self.context(text, asked, True) if n == 0 else
                                self.further(asked))
                document.append(answer + ".<|im_end|>")
            return document

    def whole(self):
        """Paragraphs of a book as they stand; nothing in front."""
        book = self.random.choice(self.books)
        size = int(self.random.uniform(3600, 6600))
        begin = book.find("\n", self.random.randrange(max(1, len(book) - size))) + 1
        return ["\n", book[begin:begin + size].strip()]


def main():
    if len(sys.argv) < 7:
        sys.exit(__doc__)
    data, output, lengths, megabytes, seed, turns = sys.argv[1:7]
    shares = dict(SHARES)
    for setting in sys.argv[7:]:
        kind, share = setting.split("=")
        shares[kind] = float(share)
    for turn in turns.split(","):
        kind = turn.partition(":")[0]
        if kind not in ("mix", "whole", *SHARES):
            sys.exit(f"documents.py: '{kind}' in TURNS is none of mix, whole, {', '.join(SHARES)}")
    usual = [int(n) for n in lengths.split(",")]
    source = Source(data, int(seed), usual)
    sizes = dict.fromkeys(shares, 0)
    n_named = 0
    with open(output, "w", encoding="utf-8") as out:
        while n_named + sum(sizes.values()) < float(megabytes) * 1e6:
            for turn in turns.split(","):
                kind, _, length = turn.partition(":")
                mixed = kind == "mix"
                if mixed:  # By characters, since kinds differ in length.
                    kind = max(shares, key=lambda k: shares[k] * (sum(sizes.values()) + 1) - sizes[k])
                source.lengths = [int(length)] if length else usual
                document = getattr(source, kind)()
                n = sum(len(p) for p in document)
                if mixed:
                    sizes[kind] += n
                else:
                    n_named += n
                out.write(json.dumps({"text": document}) + "\n")
    print(output, "characters of each kind of the mix:", sizes, "of others:", n_named)


if __name__ == "__main__":
    main()
