#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""A small model for gmsa_ablations.py, on which a run takes about a minute.

    small_model.py PROGRAM BOOKS FOLDER

It reads bytes: 6 layers of width 96, 0.66 million weights, drawn anew and trained by `gistkv train sag`
on BOOKS (JSONL with a field `text`, or .jsonl.zst). Six documents of seven say two to eight words, `|`
and the same words again, so that it can restate a text, which is all that a frozen decoder is asked for;
the others are plain. FOLDER/trained/model is the model, FOLDER/pieces.jsonl what to restore in training:
pieces of the last tenth of BOOKS, none of which the model has seen.
"""
import array
import json
import pathlib
import random
import subprocess
import sys

from gmsa_ablations import texts_of

d, layers, heads, kv_heads, head, d_ff, vocabulary = 96, 6, 6, 3, 16, 256, 259
draw = random.Random(1)


def tensors():
    """Names, extents and numbers: normal ones of variance 1 / inputs, less in front of a sum."""
    def drawn(rows, cols, deviation):
        return (rows, cols), [draw.gauss(0, deviation) for _ in range(rows * cols)]

    deep = (2 * layers) ** -0.5
    yield "model.embed_tokens.weight", *drawn(vocabulary, d, 0.05)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield at + "self_attn.q_proj.weight", *drawn(heads * head, d, d ** -0.5)
        yield at + "self_attn.k_proj.weight", *drawn(kv_heads * head, d, d ** -0.5)
        yield at + "self_attn.v_proj.weight", *drawn(kv_heads * head, d, d ** -0.5)
        yield at + "self_attn.o_proj.weight", *drawn(d, heads * head, (heads * head) ** -0.5 * deep)
        yield at + "mlp.gate_proj.weight", *drawn(d_ff, d, d ** -0.5)
        yield at + "mlp.up_proj.weight", *drawn(d_ff, d, d ** -0.5)
        yield at + "mlp.down_proj.weight", *drawn(d, d_ff, d_ff ** -0.5 * deep)
        yield at + "input_layernorm.weight", (d,), [1.0] * d
        yield at + "post_attention_layernorm.weight", (d,), [1.0] * d
    yield "model.norm.weight", (d,), [1.0] * d


def write_model(folder):
    folder.mkdir(parents=True, exist_ok=True)
    header, data = {}, b""
    for name, extents, numbers in tensors():
        begin = len(data)
        data += array.array("f", numbers).tobytes()
        header[name] = {"dtype": "F32", "shape": extents, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d,
        "intermediate_size": d_ff, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head, "vocab_size": vocabulary,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_theta": 10000.0}))
    # Bytes as the byte level of Hugging Face's tokenizers shows them, behind three special tokens.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {b: chr(b) for b in plain}
    for b in range(256):
        shown.setdefault(b, chr(256 + len(shown) - len(plain)))
    special = ["<unk>", "<s>", "</s>"]
    ids = {s: i for i, s in enumerate(special)} | {shown[b]: 3 + b for b in range(256)}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0",
        "added_tokens": [{"id": i, "content": s, "special": True} for i, s in enumerate(special)],
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": ids, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}))


def pieces_of(words):
    at = 0
    while at + 8 < len(words):
        n = draw.randint(2, 8)
        yield " ".join(words[at:at + n])[:40]
        at += n


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    program, books, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    write_model(folder / "drawn")
    words = [w for text in texts_of(books) for w in text.split() if w.isascii() and "|" not in w]
    seen = len(words) * 9 // 10
    with open(folder / "said.jsonl", "w") as f:
        for piece in pieces_of(words[:seen]):
            f.write(json.dumps({"text": piece if draw.random() < 1 / 7 else f"{piece}|{piece}"}) + "\n")
    with open(folder / "pieces.jsonl", "w") as f:
        for piece in pieces_of(words[seen:]):
            f.write(json.dumps({"text": piece}) + "\n")
    config = {
        "model": str(folder / "drawn"), "output": str(folder / "trained"), "gists": 1, "recent": 100,
        "data": {"files": [str(folder / "said.jsonl")], "segmenter": "uniform:1000",
                 "max_tokens": 8000000},
        "optimiser": {"weight_decay": 0.01}, "validate_every": 200,
        "stages": [{"train": "all", "sequence": 256, "batch": 16, "micro_batch": 16, "steps": 2000,
                    "learning_rate": 3e-3, "floor": 3e-4, "warm_up": 200, "clip": 1}]}
    (folder / "config.json").write_text(json.dumps(config))
    going_on = ["--resume"] if (folder / "trained" / "checkpoint.safetensors").exists() else []
    done = subprocess.run([program, "train", "sag", "--config", str(folder / "config.json"),
                           "--threads", "1", *going_on], capture_output=True, text=True)
    sys.exit(done.stderr.strip() if done.returncode else None)


main()
