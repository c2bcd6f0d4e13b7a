#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/random_models/*.json: small models with weights made by rule, and their logits.

The logits come from the model classes of the PyPI package transformers, which share no code with
this library: pip install transformers==5.23.0 torch==2.15.0 numpy. Run from the root of the
repository; prints what it wrote. rotations/rotations.json holds frequencies and magnitude of the
rotation for more settings. NAME.json holds

  config      config.json as transformers writes it
  dtype       how the weights are stored: float32, or bfloat16 (rounded to nearest, ties to even)
  tensors     name and extents of every tensor, by name; number t is the rule's t
  first       the first four entries of every tensor, to check the rule
  sequences   ids; rows and columns of the logits that are given; the logits, float32 eager
              attention; logsumexp of those rows over the whole vocabulary
  deviation   largest difference of the float32 logits and logsumexp, all rows and columns, from the
              same run in float64

Weights, so that none are stored: entry e (row-major) of tensor t is

  float32(mean + scale (u - 0.5) sqrt(12)),  u = (splitmix64(0x6d5a + 1000003 t + e) >> 40) / 2^24

in double from left to right, with splitmix64(x): x += 0x9E3779B97F4A7C15; x = (x ^ x >> 30) *
0xBF58476D1CE4E5B9; x = (x ^ x >> 27) * 0x94D049BB133111EB; x ^ x >> 31 (uint64). Norm weights
(vectors named *norm.weight) have mean 1 and scale 0.2, biases mean 0 and scale 0.3, the embedding
table mean 0 and scale 1, all other matrices mean 0 and scale 1.5 / sqrt(columns).
"""

import contextlib
import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers import modeling_rope_utils
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

CLASSES = {
    LlamaConfig: modeling_llama.LlamaForCausalLM,
    Qwen2Config: modeling_qwen2.Qwen2ForCausalLM,
    Qwen3Config: modeling_qwen3.Qwen3ForCausalLM,
}


def sizes(layers, width, heads, kv_heads, feed_forward, vocabulary, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": feed_forward,
        "vocab_size": vocabulary,
        **more,
    }


def rope(kind, theta, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


# Extents are no multiples of anything a kernel likes; contexts that are stretched are shorter than
# the sequences.
MODELS = {
    "llama_tied": LlamaConfig(
        **sizes(2, 48, 6, 3, 80, 131), **rope("default", 10000.0), rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
    "llama_biases": LlamaConfig(
        **sizes(2, 40, 5, 5, 53, 97), **rope("default", 10000.0), attention_bias=True,
        mlp_bias=True,
    ),
    "llama_wide_heads": LlamaConfig(
        **sizes(2, 48, 8, 1, 61, 89, head_dim=80), **rope("default", 500000.0), rms_norm_eps=1e-2,
    ),
    "llama_gelu_tanh": LlamaConfig(
        **sizes(2, 36, 6, 2, 47, 101), **rope("default", 10000.0),
        hidden_act="gelu_pytorch_tanh",
    ),
    "llama_gelu": LlamaConfig(
        **sizes(1, 36, 6, 6, 47, 101), **rope("default", 10000.0), hidden_act="gelu",
    ),
    "llama_rope_llama3": LlamaConfig(
        **sizes(2, 64, 2, 1, 70, 127, max_position_embeddings=512),
        **rope("llama3", 1000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=64),
        tie_word_embeddings=True,
    ),
    "llama_rope_linear": LlamaConfig(
        **sizes(2, 44, 2, 2, 60, 103, max_position_embeddings=64),
        **rope("linear", 10000.0, factor=2.5),
    ),
    "llama_rope_yarn": LlamaConfig(
        **sizes(2, 48, 2, 1, 66, 107, max_position_embeddings=128),
        **rope("yarn", 10000.0, factor=4.0, original_max_position_embeddings=32),
    ),
    "qwen2": Qwen2Config(
        **sizes(3, 56, 4, 2, 88, 113), **rope("default", 1000000.0), rms_norm_eps=1e-6,
    ),
    "qwen2_tied": Qwen2Config(
        **sizes(2, 56, 7, 1, 75, 109), **rope("default", 1000000.0), tie_word_embeddings=True,
    ),
    "qwen2_rope_yarn": Qwen2Config(
        **sizes(2, 60, 3, 3, 64, 83, max_position_embeddings=120),
        **rope("yarn", 50000.0, factor=3.0, original_max_position_embeddings=40, beta_fast=6.0,
               beta_slow=0.5, attention_factor=1.3),
    ),
    "qwen3": Qwen3Config(
        **sizes(2, 40, 4, 2, 72, 137, head_dim=32), **rope("default", 1000000.0),
        tie_word_embeddings=True,
    ),
    "qwen3_biases_bf16": Qwen3Config(
        **sizes(2, 52, 4, 1, 58, 79, head_dim=18), **rope("default", 10000.0),
        attention_bias=True, dtype="bfloat16",
    ),
    "qwen3_rope_yarn": Qwen3Config(
        **sizes(2, 38, 2, 2, 50, 73, head_dim=26, max_position_embeddings=200),
        **rope("yarn", 10000.0, factor=5.0, original_max_position_embeddings=40, mscale=0.8,
               mscale_all_dim=0.3),
    ),
}
LENGTHS = (80, 41)

# Rotations by themselves: head width, context, rope_parameters. The first five are of published
# models; the last three have ramps that are empty, end before they begin, or lie outside.
ROTATIONS = {
    "Llama 3.1 8B": (128, 131072, dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=8192)),
    "Llama 3.2 1B": (64, 131072, dict(
        rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=8192)),
    "Qwen2.5 7B, stretched": (128, 131072, dict(
        rope_type="yarn", rope_theta=1000000.0, factor=4.0,
        original_max_position_embeddings=32768)),
    "Qwen3 8B, stretched": (128, 131072, dict(
        rope_type="yarn", rope_theta=1000000.0, factor=4.0,
        original_max_position_embeddings=32768)),
    "Yarn Llama 2 7B, 128k": (128, 131072, dict(
        rope_type="yarn", rope_theta=10000.0, factor=32.0,
        original_max_position_embeddings=4096)),
    "two multipliers": (64, 163840, dict(
        rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32, beta_slow=1, mscale=1.0,
        mscale_all_dim=0.707, original_max_position_embeddings=4096)),
    "one multiplier": (64, 163840, dict(
        rope_type="yarn", rope_theta=10000.0, factor=40.0, mscale=1.0,
        original_max_position_embeddings=4096)),
    "no stretching": (32, 64, dict(
        rope_type="yarn", rope_theta=10000.0, factor=1.0, original_max_position_embeddings=64)),
    "integers": (32, 64, dict(rope_type="linear", rope_theta=10000, factor=4)),
    "one frequency": (2, 64, dict(rope_type="default", rope_theta=10000.0)),
    "ramp without width": (16, 2048, dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=200,
        beta_fast=32.0, beta_slow=31.9)),
    "ramp of a tiny context": (32, 64, dict(
        rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=2)),
    "ramp behind the last": (4, 1048576, dict(
        rope_type="yarn", rope_theta=10.0, factor=4.0, original_max_position_embeddings=524288)),
}
N_COLUMNS = 20


def splitmix64(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def numbers(t, extents):
    e = np.arange(np.prod(extents), dtype=np.uint64)
    u = (splitmix64(np.uint64(0x6D5A + 1000003 * t) + e) >> np.uint64(40)) / 2.0**24
    return (u - 0.5) * np.sqrt(12.0)


def weight(t, name, extents):
    if len(extents) == 1:
        mean, scale = (1.0, 0.2) if name.endswith("norm.weight") else (0.0, 0.3)
    else:
        mean = 0.0
        scale = 1.0 if name == "model.embed_tokens.weight" else 1.5 / np.sqrt(float(extents[1]))
    return (mean + scale * numbers(t, extents)).astype(np.float32).reshape(extents)


class DoubleTorch:
    """The module torch in which float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def all_in_double():
    """The model classes compute norms, softmax and rotation in float32 whatever the weights are.
    Here they get float64 when they ask for it, so that the run tells the error of float32."""
    modules = [modeling_rope_utils, modeling_llama, modeling_qwen2, modeling_qwen3]
    to_float = torch.Tensor.float
    for module in modules:
        module.torch = DoubleTorch()
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = to_float
        for module in modules:
            module.torch = torch


def run(config, weights, sequences, dtype):
    """Logits of each sequence by itself."""
    config._attn_implementation = "eager"
    model = CLASSES[type(config)](config).to(dtype).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = ["lm_head.weight"] if config.tie_word_embeddings else []
    assert sorted(missing) == tied and not unexpected
    model.tie_weights()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
                  for ids in sequences]
    assert all(x.dtype == dtype for x in logits)
    return [x.double() for x in logits]


def document(number, config):
    model = CLASSES[type(config)](config)
    extents = {name: list(p.shape) for name, p in sorted(model.named_parameters())}
    assert config.tie_word_embeddings != ("lm_head.weight" in extents)
    dtype = "bfloat16" if config.dtype == torch.bfloat16 else "float32"
    weights = {}
    for t, (name, shape) in enumerate(extents.items()):
        weights[name] = torch.from_numpy(weight(t, name, shape)).to(getattr(torch, dtype)).float()
    with tempfile.TemporaryDirectory() as directory:
        model.to(getattr(torch, dtype)).save_pretrained(directory)
        stored = json.loads((pathlib.Path(directory) / "config.json").read_text())
    sequences = []
    for i, length in enumerate(LENGTHS):
        start = np.uint64(1000000 * number + 1000 * i)
        draws = splitmix64(start + np.arange(length, dtype=np.uint64))
        sequences.append([int(x) for x in draws % np.uint64(config.vocab_size)])
    logits = run(config, weights, sequences, torch.float32)
    with all_in_double():
        exact = run(config, {n: w.double() for n, w in weights.items()}, sequences, torch.float64)

    def lse(x):
        return torch.logsumexp(x, dim=-1)

    def shortened(values):
        return [float(f"{x:.7g}") for x in values]

    deviation = max(
        max((a - b).abs().max().item(), (lse(a) - lse(b)).abs().max().item())
        for a, b in zip(logits, exact)
    )
    result = {
        "config": stored,
        "dtype": dtype,
        "tensors": list(extents.items()),
        "first": [shortened(w.flatten()[:4].tolist()) for w in weights.values()],
        "deviation": float(f"{deviation:.3g}"),
        "sequences": [],
    }
    for ids, x in zip(sequences, logits):
        n = len(ids)
        rows = sorted({*range(0, n, 9), *range(n - 4, n)})
        columns = [i * config.vocab_size // N_COLUMNS for i in range(N_COLUMNS - 1)]
        columns.append(config.vocab_size - 1)
        result["sequences"].append({
            "ids": ids,
            "rows": rows,
            "columns": columns,
            "logits": [shortened(x[r, columns].tolist()) for r in rows],
            "logsumexp": shortened(lse(x)[rows].tolist()),
        })
    return result


def rotation(head_dim, n_context, parameters):
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=n_context,
                         rope_parameters=dict(parameters))
    embedding = modeling_llama.LlamaRotaryEmbedding(config)
    return {
        "config": json.loads(config.to_json_string()),
        "frequencies": [float(f"{x:.9g}") for x in embedding.inv_freq.tolist()],
        "magnitude": embedding.attention_scaling,
    }


def main():
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    directory = pathlib.Path("tests/data/random_models")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for number, (name, config) in enumerate(MODELS.items()):
        content = {"source": versions, **document(number, config)}
        lines = []
        for key, value in content.items():
            text = json.dumps(value)
            if key == "sequences":  # One line a field.
                text = text.replace(', "', ',\n   "').replace("}, {", "},\n  {")
            lines.append(f'"{key}": {text}')
        path = directory / f"{name}.json"
        path.write_text("{" + ",\n ".join(lines) + "}\n")
        print(path, path.stat().st_size, "bytes, deviation", content["deviation"])
    path = directory / "rotations" / "rotations.json"
    path.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(n)}: {json.dumps(rotation(*r))}" for n, r in ROTATIONS.items()]
    path.write_text("{" + ",\n ".join(lines) + "}\n")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
