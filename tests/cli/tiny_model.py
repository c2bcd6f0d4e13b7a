# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

"""tiny_model.py CHECKPOINT FOLDER: a llama2.c checkpoint as a Hugging Face folder, with a tokenizer.

The checkpoint has no tokenizer. Its vocabulary begins with three special tokens and the 256 bytes;
the tokenizer that is written knows these and no words, so every text is a row of byte tokens.
"""
import array
import json
import pathlib
import struct
import sys


def alphabet():
    """The printable character that stands for each byte in byte-level BPE."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def main():
    data = pathlib.Path(sys.argv[1]).read_bytes()
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    d, d_ff, n_layers, n_heads, n_kv_heads, n_vocab, n_context = struct.unpack_from("<7i", data)
    numbers = array.array("f", data[28:])
    head_dim = d // n_heads
    kv = n_kv_heads * head_dim
    at = 0

    def take(rows, cols):
        nonlocal at
        at += rows * cols
        return rows, cols, numbers[at - rows * cols : at]

    def half_split(rows, cols, values):
        """Rows of a head from interleaved rotary pairs to halves."""
        order = [h + 2 * j + s for h in range(0, rows, head_dim) for s in (0, 1)
                 for j in range(head_dim // 2)]
        moved = array.array("f")
        for r in order:
            moved.extend(values[r * cols : (r + 1) * cols])
        return rows, cols, moved

    tensors = {"model.embed_tokens.weight": take(n_vocab, d)}
    for name, rows, cols in (
        ("input_layernorm", 0, d), ("self_attn.q_proj", d, d), ("self_attn.k_proj", kv, d),
        ("self_attn.v_proj", kv, d), ("self_attn.o_proj", d, d),
        ("post_attention_layernorm", 0, d), ("mlp.gate_proj", d_ff, d),
        ("mlp.down_proj", d, d_ff), ("mlp.up_proj", d_ff, d)):
        for layer in range(n_layers):
            tensor = take(max(rows, 1), cols)
            if name.endswith(("q_proj", "k_proj")):
                tensor = half_split(*tensor)
            tensors[f"model.layers.{layer}.{name}.weight"] = (rows, *tensor[1:])
    tensors["model.norm.weight"] = (0, *take(1, d)[1:])

    header, body = {}, b""
    for name, (rows, cols, values) in tensors.items():
        raw = values.tobytes()
        header[name] = {"dtype": "F32", "shape": [rows, cols] if rows else [cols],
                        "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text.encode() + body)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d,
        "intermediate_size": d_ff, "num_hidden_layers": n_layers, "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads, "vocab_size": n_vocab,
        "max_position_embeddings": n_context, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_theta": 10000.0}))
    special = ["<unk>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate(special)}
    vocab.update({shown: 3 + byte for byte, shown in alphabet().items()})
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token, "special": True}
                         for i, token in enumerate(special)],
        "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}))


main()
