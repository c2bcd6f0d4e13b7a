# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""Training steps in PyTorch + transformers, for train_peer.py: train_torch.py TASK, a JSON object.

The model is that of transformers, in bf16, with scaled-dot-product attention under the sentence
mask as a matrix; gist rows and LoRA are float32. Nothing is computed that the step does not need:
base weights have no gradient, and the logits of gists stand beside those of the table.
"""
import json
import math
import pathlib
import resource
import sys
import time

import torch
import transformers


def load(task):
    """The model as a folder that transformers reads fast; made from the GGUF file once."""
    folder = pathlib.Path(task["folder"])
    if not (folder / "config.json").is_file():
        gguf = pathlib.Path(task["model"])
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The weights are plain numbers by now, but the class still says that they are quantised.
        plain = type(model)(transformers.AutoConfig.for_model(**{
            k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}))
        plain.load_state_dict(model.state_dict())
        plain.to(torch.bfloat16).save_pretrained(folder)
    return folder


def adapter(path):
    """Tensors of an adapter file, as float32."""
    import safetensors.torch
    return {k: v.float() for k, v in safetensors.torch.load_file(path).items()}


class Lora(torch.nn.Module):
    """W x + (alpha / rank) B A x; on some rows only where `rows.index` is set."""

    def __init__(self, linear, a, b, scale, rows):
        super().__init__()
        self.linear, self.scale, self.rows = linear, scale, rows
        self.a = torch.nn.Parameter(a)
        self.b = torch.nn.Parameter(b)

    def forward(self, x):
        y = self.linear(x)
        index = self.rows.index
        read = x if index is None else x[:, index]
        low = torch.nn.functional.linear(read, self.a.to(x.dtype))
        more = torch.nn.functional.linear(low, self.b.to(x.dtype)) * self.scale
        return y + more if index is None else y.index_add(1, index, more)


class Rows:
    index = None


def sentence_mask(gist, n_gist, recent, sink):
    """visible(q, k), [n, n]; gist[i] says whether row i is a gist."""
    n = len(gist)
    flags = torch.tensor(gist)
    sentence = torch.tensor([sum(gist[:i]) // n_gist for i in range(n)])
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    near = sentence[:, None] - sentence[None, :] <= recent
    return (k <= q) & ((k < sink) | flags[None, :] | near)


def status(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def main():
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    folder = load(task)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.requires_grad_(False)
    model.train()
    given = adapter(task["adapter"])
    gists = torch.nn.Parameter(given["gist.input"])
    trained = [gists]
    rows = Rows()
    hugging_face = {"query": "self_attn.q_proj", "key": "self_attn.k_proj",
                    "value": "self_attn.v_proj", "output": "self_attn.o_proj",
                    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    for layer, block in enumerate(model.model.layers):
        for ours, theirs in hugging_face.items():
            name = f"blocks.{layer}.{ours}.lora_"
            part, _, leaf = theirs.partition(".")
            parent = getattr(block, part)
            a, b = given[name + "a"], given[name + "b"]
            lora = Lora(getattr(parent, leaf), a, b, task["alpha"] / len(a), rows)
            setattr(parent, leaf, lora)
            trained += [lora.a, lora.b]
    optimiser = torch.optim.AdamW(trained, lr=task["rate"], betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0.0)

    ids = torch.tensor(task["ids"])
    n_vocab = model.config.vocab_size
    is_gist = ids >= n_vocab
    weights = torch.tensor(task["weights"])
    mask = sentence_mask(is_gist.tolist(), task["gists"], task["recent"], task["sink"])[None, None]
    if task["lora_rows"] == "gists":
        rows.index = is_gist.nonzero()[:, 0]
    target_rows = weights[1:].nonzero()[:, 0]  # Rows that predict something.
    targets = ids[1:][target_rows]
    table = model.model.embed_tokens.weight

    def step():
        x = table[ids.clamp(max=n_vocab - 1)]
        x[is_gist] = gists.to(x.dtype)[ids[is_gist] - n_vocab]
        hidden = model.model(inputs_embeds=x[None], attention_mask=mask,
                             use_cache=False).last_hidden_state[0]
        hidden = hidden[target_rows]
        logits = torch.cat([hidden @ table.T, hidden @ gists.to(x.dtype).T], dim=1)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here.
    found = {"loss": [], "gradient_norm": [], "seconds": []}
    for _ in range(task["steps"]):
        begin = time.perf_counter()
        loss, norm = step()
        found["seconds"].append(time.perf_counter() - begin)
        found["loss"].append(loss)
        found["gradient_norm"].append(norm)
        assert math.isfinite(loss)
    found["peak_rss_bytes"] = status("VmHWM")
    found["peak_rss_bytes_with_loading"] = resource.getrusage(
        resource.RUSAGE_SELF).ru_maxrss * 1024
    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    found["bf16_in_hardware"] = torch.backends.mkldnn.is_available()
    print(json.dumps(found))


main()
