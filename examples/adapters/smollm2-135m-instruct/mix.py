#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""mix.py DATA OUT.jsonl: the training documents of this adapter, always the same ones.

DATA holds train_text/books_{0..7}.jsonl.zst (old books in the public domain: title, year, text) and
squad/train.jsonl (SQuAD 1.1, an article a line). Documents are of four kinds: pieces of books; pieces of
books with sentences begun and, on the next line, ended; paragraphs with questions in the model's chat
template; generated keys and values with questions. Needs zstdcat."""

import json
import random
import re
import subprocess
import sys

SYSTEM = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
          "<|im_end|>\n")
documents = []
sizes = {"book": 0, "qa": 0, "recall": 0, "cloze": 0}
words = set()


def add(kind, text):
    documents.append(text)
    sizes[kind] += len(text)


def user(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def cloze(text):
    """A shorter piece, and behind it up to eight of its sentences, each broken in two."""
    text = text[:random.randint(3000, 6500)]
    text = text[:max(text.rfind(". ") + 1, 2000)]
    sentences = [s for s in re.split(r"(?<=[.?!]) ", text.replace("\n", " "))
                 if 8 <= len(s.split()) <= 40]
    random.shuffle(sentences)
    for sentence in sentences[:8]:
        parts = sentence.split()
        k = random.randint(3, max(3, min(10, len(parts) * 2 // 3)))
        text += "\n\n" + " ".join(parts[:k]) + "\n" + " ".join(parts[k:])
    return text


def books(data):
    """Pieces of 7,200 to 12,000 characters from two places of each of 8 times 40 books."""
    for number in range(8):
        path = f"{data}/train_text/books_{number}.jsonl.zst"
        with subprocess.Popen(["zstdcat", path], stdout=subprocess.PIPE) as unpacked:
            for n_books, line in enumerate(unpacked.stdout, 1):
                text = json.loads(line)["text"]
                for fifth in (1, 3):
                    begin = text.find("\n", fifth * len(text) // 5) + 1
                    piece, n = "", 0
                    for paragraph in text[begin:begin + 40000].split("\n"):
                        piece += paragraph + "\n"
                        if len(piece) <= 7200:
                            continue
                        if len(piece) < 12000:
                            if random.random() < 0.35:
                                add("cloze", cloze(piece.strip()))
                            else:
                                add("book", piece.strip())
                            n += 1
                        words.update(w for w in piece.lower().split()
                                     if w.isalpha() and 4 <= len(w) <= 8)
                        piece = ""
                        if n == 3:
                            break
                if n_books >= 40:
                    unpacked.kill()
                    break


def questions(data, size):
    """Two to nine paragraphs of an article, and three to eight questions with short answers."""
    with open(f"{data}/squad/train.jsonl", encoding="utf-8") as lines:
        articles = [json.loads(line) for line in lines]
    while sizes["qa"] < size:
        paragraphs = random.choice(articles)["paragraphs"]
        n = random.randint(2, 9)
        k = random.randint(0, max(0, len(paragraphs) - n))
        chosen = paragraphs[k:k + n]
        pairs = []
        for paragraph in chosen:
            for qa in paragraph["qas"]:
                if not qa["answers"]:
                    continue
                answer = qa["answers"][0]
                answer = answer if isinstance(answer, str) else answer["text"]
                pairs.append((qa["question"].strip(), answer.rstrip(".")))
        if len(pairs) < 2:
            continue
        random.shuffle(pairs)
        pairs = pairs[:random.randint(3, 8)]
        text = "\n".join(p["context"].strip() for p in chosen)
        if len(text) > 7000:
            continue
        document = SYSTEM + user(f"{text}\n\n{pairs[0][0]}") + f"{pairs[0][1]}.<|im_end|>\n"
        for question, answer in pairs[1:]:
            document += user(question) + f"{answer}.<|im_end|>\n"
        add("qa", document)


def value(kind, vocabulary):
    if kind == "number":
        return str(random.randint(1, 10**6))
    if random.random() < 0.5:
        return "-".join(random.sample(vocabulary, 3))
    return random.choice(vocabulary)


def recall(vocabulary, size):
    """4 to 48 lines of a key and a value, and questions on up to six of them."""
    while sizes["recall"] < size:
        n = random.choice([4, 8, 12, 16, 24, 32, 48])
        keys = ["-".join(random.sample(vocabulary, 3)) for _ in range(n)]
        kind = random.choice(["number", "number", "word"])
        values = [value(kind, vocabulary) for _ in keys]
        text = "\n".join(f"One of the special magic {kind}s for {k} is: {v}."
                         for k, v in zip(keys, values))
        asked = random.sample(range(n), min(6, n))
        plain = random.random() < 0.5
        document = text if plain else SYSTEM
        for number, i in enumerate(asked):
            what = f"special magic {kind} for {keys[i]} mentioned in the text"
            question = f"What is the {what}? The {what} is:"
            if plain:
                document += f"\n\n{question} {values[i]}."
            else:
                question = text + "\n\n" + question if number == 0 else question
                document += user(question) + f" {values[i]}.<|im_end|>\n"
        add("recall", document)


def main():
    data, output = sys.argv[1:3]
    random.seed(12)
    books(data)
    prose = sizes["book"] + sizes["cloze"]
    questions(data, 0.3 * prose)
    recall(sorted(words), 0.17 * prose)
    random.shuffle(documents)
    with open(output, "w", encoding="utf-8") as out:
        for document in documents:
            out.write(json.dumps({"text": document}) + "\n")
    print(len(documents), "documents, characters of each kind:", sizes)


if __name__ == "__main__":
    main()
