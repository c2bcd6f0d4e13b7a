# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""One task in llama.cpp, through the C API that the PyPI package llama-cpp-python brings.

Runs in the peer's own environment; peers.py starts it. The argument is one JSON object, the answer
one line of JSON on stdout:

    {"task": "quantize", "model": FILE, "to": FILE, "type": "q8_0"}
    {"task": "prefill", "model": FILE, "ids": FILE, "n": 2048, ...}
    {"task": "decode", "model": FILE, "ids": FILE, "n": 8000, "tokens": 64, ...}

with "flash": bool, "kv": "f16", "threads": 2, "repeat": 1 beside the latter two. `ids` is a JSON
list of token ids. Decoding behind n > 0 tokens names a "state": the file that keeps what these left
in the cache of just this setting, written if it is not there. The time to read them is not measured,
and at 32,000 tokens it is more than ten minutes a sample.
"""
import ctypes
import json
import os
import sys
import time

import llama_cpp as api

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # enum ggml_type
FILE_TYPES = {"q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0, "bf16": api.LLAMA_FTYPE_MOSTLY_BF16}
N_UBATCH = 512
N_BATCH = 2048


class Failure(Exception):
    pass


def memory(field):
    """A field of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def quantize(task):
    params = api.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[task["type"]]
    params.allow_requantize = True
    params.nthread = task.get("threads", 2)
    failed = api.llama_model_quantize(
        task["model"].encode(), task["to"].encode(), ctypes.byref(params))
    if failed:
        raise Failure(f"{task['model']}: llama_model_quantize to {task['type']} says {failed}")
    return {}


class Engine:
    def __init__(self, task, n_ctx):
        params = api.llama_model_default_params()
        params.use_mmap = False  # The weights are then wholly resident behind loading.
        self.model = api.llama_model_load_from_file(task["model"].encode(), params)
        if not self.model:
            raise Failure(f"{task['model']}: llama.cpp cannot load it")
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        ctypes.CDLL(None).malloc_trim(0)
        self.rss_loaded = memory("VmRSS")
        self.peak_load = memory("VmHWM")
        with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
            reset.write("5")  # The peak counts from here on.

        params = api.llama_context_default_params()
        params.n_ctx = -(-n_ctx // 256) * 256
        params.n_batch = N_BATCH
        params.n_ubatch = N_UBATCH
        params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = task["threads"]
        params.flash_attn_type = int(task["flash"])
        params.type_k = params.type_v = KV_TYPES[task["kv"]]
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise Failure(f"llama.cpp takes no context with KV {task['kv']}, flash {task['flash']}")
        self.batch = api.llama_batch_init(N_BATCH, 0, 1)

    def clear(self):
        api.llama_memory_clear(api.llama_get_memory(self.context), False)

    def read(self, ids, begin, logits_of_last):
        """Feeds ids to positions from `begin` on; the last row has logits or none has."""
        for first in range(0, len(ids), N_BATCH):
            part = ids[first:first + N_BATCH]
            self.batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self.batch.token[i] = token
                self.batch.pos[i] = begin + first + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = 0
                self.batch.logits[i] = 0
            if first + len(part) == len(ids):
                self.batch.logits[len(part) - 1] = int(logits_of_last)
            status = api.llama_decode(self.context, self.batch)
            if status:
                raise Failure(f"llama_decode returned {status} at position {begin + first}")
        api.llama_synchronize(self.context)

    def read_or_restore(self, ids, path):
        """Feeds ids from position 0 on, or puts back what they left. The cache is empty before."""
        tokens = (api.llama_token * len(ids))(*ids)
        name = path.encode()
        if os.path.exists(path):
            found = ctypes.c_size_t(0)
            kept = (api.llama_token * len(ids))()
            size = api.llama_state_seq_load_file(self.context, name, 0, kept, len(ids),
                                                 ctypes.byref(found))
            if not size or list(kept)[:found.value] != ids:
                raise Failure(f"{path}: llama.cpp cannot restore this state")
            return
        self.read(ids, 0, True)
        if not api.llama_state_seq_save_file(self.context, name + b".part", 0, tokens, len(ids)):
            raise Failure(f"{path}: llama.cpp cannot save this state")
        os.replace(path + ".part", path)

    def best(self):
        """The likeliest next token and how far its logit is above the second's."""
        logits = api.llama_get_logits_ith(self.context, -1)
        order = sorted(range(self.n_vocab), key=lambda i: logits[i], reverse=True)
        return order[0], logits[order[0]] - logits[order[1]]


def prefill(engine, ids, task):
    seconds = []
    for _ in range(task["repeat"]):
        engine.clear()
        start = time.perf_counter()
        engine.read(ids[:task["n"]], 0, True)
        api.llama_get_logits_ith(engine.context, -1)
        seconds.append(time.perf_counter() - start)
    return seconds


def decode(engine, ids, task):
    seconds = []
    n = task["n"]
    for _ in range(task["repeat"]):
        engine.clear()
        if n:
            engine.read_or_restore(ids[:n], task["state"])
        start = time.perf_counter()
        for i in range(n, n + task["tokens"]):
            engine.read(ids[i:i + 1], i, True)
            api.llama_get_logits_ith(engine.context, -1)
        seconds.append(time.perf_counter() - start)
    return seconds


def measure(task):
    with open(task["ids"], encoding="ascii") as file:
        ids = json.load(file)
    need = task["n"] + (task["tokens"] if task["task"] == "decode" else 0)
    if len(ids) < need:
        raise Failure(f"{task['ids']} has {len(ids)} tokens, want {need}")
    engine = Engine(task, max(need, 16))
    # As in our engine: a first chunk or two, and a few single tokens.
    warm = min(max(task["n"], 16), 2 * N_UBATCH, need)
    engine.read(ids[:warm], 0, True)
    engine.clear()
    for i in range(4):
        engine.read(ids[i:i + 1], i, True)
    seconds = (prefill if task["task"] == "prefill" else decode)(engine, ids, task)
    peak = memory("VmHWM")
    token, margin = engine.best()
    return {
        "version": api.__version__,
        "system": " ".join(api.llama_print_system_info().decode().split()),
        "task": task["task"], "n_text": task["n"], "n_tokens": task.get("tokens"),
        "flash": task["flash"], "kv": task["kv"], "threads": task["threads"],
        "next_token": token, "next_margin": margin,
        "weight_bytes": api.llama_model_size(engine.model),
        "kv_bytes_held": api.llama_state_seq_get_size(engine.context, 0),
        "rss_loaded": engine.rss_loaded, "rss_peak_behind_load": peak,
        "rss_peak": max(engine.peak_load, peak),
        "seconds": seconds,
    }


def main():
    silent = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(silent, ctypes.c_void_p(0))
    api.llama_backend_init()
    task = json.loads(sys.argv[1])
    try:
        answer = quantize(task) if task["task"] == "quantize" else measure(task)
    except Failure as failure:
        sys.exit(f"llama.py: {failure}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
