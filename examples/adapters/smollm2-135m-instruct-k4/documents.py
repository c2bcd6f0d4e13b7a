#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""documents.py DATA OUT.jsonl LENGTH MEGABYTES SEED [KIND=SHARE...]: documents that teach gists to
carry words, always the same ones for the same arguments.

Each is a list of parts, of which the second, fourth and so on are learned: what is asked for stands in
no other place than in sentences that have become gists. LENGTH is that of a text in characters, on
average; texts are from a third of it to twice as long. DATA holds train_text/books_{0..7}.jsonl.zst (old
books in the public domain) and squad/train.jsonl (SQuAD 1.1). Kinds and their shares:

    restate    a text, and then the same text
    complete   a text, the beginnings of some of its sentences, each with what followed
    recall     keys with numbers or words among sentences of a book, and questions
    question   paragraphs and questions of SQuAD in the model's chat template
    whole      a text without a question, all of it learned

Needs zstdcat."""

import json
import random
import re
import subprocess
import sys

SYSTEM = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
          "<|im_end|>\n")
SHARES = {"restate": 0.35, "complete": 0.25, "recall": 0.25, "question": 0.15, "whole": 0.0}
ORDERS = ("Repeat the text above.", "Repeat the text.", "What does the text say?",
          "Write the text once more:", "The same text again:")


def user(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def sentences_of(text):
    """Sentences of 4 to 60 words, as they stand."""
    found = re.split(r"(?<=[.?!])\s+", " ".join(text.split()))
    return [s for s in found if 4 <= len(s.split()) <= 60]


class Source:
    def __init__(self, data, seed, length):
        self.random = random.Random(seed)
        self.length = length
        self.books = []
        self.words = set()
        for number in range(8):
            path = f"{data}/train_text/books_{number}.jsonl.zst"
            with subprocess.Popen(["zstdcat", path], stdout=subprocess.PIPE) as unpacked:
                for _, line in zip(range(24), unpacked.stdout):
                    text = json.loads(line)["text"]
                    # Not the places that other trainings of this adapter read.
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
        return int(self.length * self.random.choice([0.35, 0.5, 0.7, 1.0, 1.4, 2.0]))

    def prose(self, size):
        """Consecutive sentences of about `size` characters, of a book or an article."""
        r = self.random
        while True:
            if r.random() < 0.6:
                book = r.choice(self.books)
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
            return str(self.random.randint(1, 10**self.random.randint(1, 6)))
        return self.name() if self.random.random() < 0.6 else self.random.choice(self.words)

    def context(self, text, question, chat):
        """The first part of a document and the frame of later questions."""
        if chat:
            return SYSTEM + user(f"{text}\n\n{question}")
        return f"{text}\n\n{question}\n"

    def further(self, question, chat):
        return f"<|im_end|>\n{user(question)}" if chat else f"\n\n{question}\n"

    def restate(self):
        text = " ".join(self.prose(self.n_characters()))
        if self.random.random() < 0.15:  # Words without sense cannot be guessed.
            text = " ".join(self.random.choices(self.words, k=max(6, len(text) // 12))) + "."
        chat = self.random.random() < 0.3
        return [self.context(text, self.random.choice(ORDERS), chat),
                text + ("<|im_end|>\n" if chat else "")]

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

    def recall(self):
        r = self.random
        kind = r.choice(["number", "word", "words"])
        keys = [self.name() for _ in range(r.choice([1, 1, 2, 3, 4]))]
        values = [self.value(kind) for _ in keys]
        lines = [f"One of the special magic {kind.rstrip('s')}s for {k} is: {v}."
                 if r.random() < 0.8 else
                 r.choice([f"The {kind.rstrip('s')} of {k} is {v}.", f"{k}: {v}."])
                 for k, v in zip(keys, values)]
        size = int(1.2 * self.n_characters()) - sum(len(x) for x in lines)
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
                document.append(self.further(question, chat) if chat else f"\n\n{question}")
            document.append(f" {values[i]}." if not chat else f"{values[i]}.")
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
            text = "\n".join(p["context"].strip() for p in chosen)
            document = []
            for n, (asked, answer) in enumerate(pairs[:r.randint(2, 6)]):
                document.append(self.context(text, asked, True) if n == 0 else
                                self.further(asked, True))
                document.append(answer + ".")
            return document

    def whole(self):
        """Paragraphs of a book as they stand; nothing in front."""
        book = self.random.choice(self.books)
        size = int(self.length * self.random.uniform(0.8, 1.6))
        begin = book.find("\n", self.random.randrange(max(1, len(book) - size))) + 1
        return ["\n", book[begin:begin + size].strip()]


def main():
    data, output, length, megabytes, seed = sys.argv[1:6]
    shares = dict(SHARES)
    for setting in sys.argv[6:]:
        kind, share = setting.split("=")
        shares[kind] = float(share)
    source = Source(data, int(seed), int(length))
    sizes = dict.fromkeys(shares, 0)
    with open(output, "w", encoding="utf-8") as out:
        while sum(sizes.values()) < float(megabytes) * 1e6:
            # By characters, since kinds differ in length.
            kind = max(shares, key=lambda k: shares[k] * (sum(sizes.values()) + 1) - sizes[k])
            document = getattr(source, kind)()
            sizes[kind] += sum(len(p) for p in document)
            out.write(json.dumps({"text": document}) + "\n")
    print(output, "characters of each kind:", sizes)


if __name__ == "__main__":
    main()
