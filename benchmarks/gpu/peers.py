#!/usr/bin/env python3
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0
"""peers.py [--quick]: what others need for the texts of attention.cu, one JSON object a line.

cudnn dense causal   PyTorch's SDPA on cuDNN over the n text tokens: what one has without gists
flex, sentence mask  FlexAttention with the mask as published, over text and gists in order
flex, permuted       FlexAttention with the keys sorted into [gists | text]
sdpa, dense mask     SDPA with a boolean matrix, where that is small
sdpa, all keys       a decode step over all n text tokens, by whatever SDPA picks

A peer that is missing or fails is a line with its reason.
"""
import json
import sys

SENTENCE, REPETITIONS = 24, 20


def say(**line):
    print(json.dumps(line), flush=True)


def main():
    quick = "--quick" in sys.argv
    try:
        import torch
        import torch.nn.functional as F
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as e:
        say(what="skipped", peer="all", reason=str(e))
        return
    if not torch.cuda.is_available():
        say(what="skipped", peer="all", reason="PyTorch sees no CUDA device")
        return
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        flex = torch.compile(flex_attention)
    except ImportError as e:
        flex = None
        say(what="skipped", peer="flex", reason=str(e))
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    say(what="versions", torch=torch.__version__, cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(), device=torch.cuda.get_device_name())

    def measure(f):
        for _ in range(3):
            f()
        times = []
        for i in range(REPETITIONS):
            flush.fill_(i)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            f()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        times.sort()
        return times[len(times) // 2], [times[len(times) // 4], times[3 * len(times) // 4]]

    def run(peer, shape, flops, f, expected=None):
        try:
            ms, quartiles = measure(f)
            error = None
            if expected is not None:
                o, want = f()[0, :, -64:].double(), expected
                error = ((o - want).abs().amax() / want.abs().amax()).item()
            say(what="forward", path=peer, **shape, ms=ms, ms_quartiles=quartiles,
                useful_tflop_s=1e-9 * flops / ms, error=error)
        except Exception as e:  # A peer may not know a shape, or run out of memory.
            say(what="skipped", peer=peer, **shape, reason=str(e).splitlines()[0][:200])

    def decode(head_dim, n_heads, n_kv_heads, n, batch):
        """One query over the keys and values of all n text tokens: the step without gists."""
        shape = dict(head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads, n_gist=0, n=n,
                     batch=batch)
        try:
            q = torch.randn(batch, n_heads, 1, head_dim, device="cuda", dtype=torch.bfloat16)
            k, v = (torch.randn(batch, n_kv_heads, n, head_dim, device="cuda",
                                dtype=torch.bfloat16) for _ in range(2))
            ms, quartiles = measure(
                lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
            say(what="decode", path="sdpa, all keys", **shape, ms=ms, ms_quartiles=quartiles,
                kv_gb_s=1e-6 * 2 * k.numel() * 2 / ms, error=None)
        except Exception as e:
            say(what="skipped", peer="sdpa, all keys", **shape, reason=str(e).splitlines()[0][:200])

    lengths = [2048, 32768] if quick else [2048, 8192, 32768, 131072]
    for head_dim, n_heads, n_kv_heads in ((64, 9, 3), (128, 24, 8)):
        for n in lengths:
            for batch in (1, 8, 32):
                decode(head_dim, n_heads, n_kv_heads, n, batch)
        for n_gist in [4] if quick else [1, 2, 4, 8]:
            for n, batch in [(n, b) for n in lengths for b in (1, 8)]:
                if batch > 1 and (quick or n > 8192):
                    continue
                unit = SENTENCE + n_gist
                rows = n // SENTENCE * unit
                shape = dict(head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads,
                             n_gist=n_gist, n=n, batch=batch)
                index = torch.arange(rows, device="cuda")
                sentence_of, is_gist = index // unit, index % unit >= SENTENCE
                pairs = (sentence_of * n_gist + index % unit + 1).sum().item()
                flops = 4 * head_dim * n_heads * pairs * batch
                torch.manual_seed(1)

                def rows_of(heads, count):
                    return torch.randn(batch, heads, count, head_dim, device="cuda",
                                       dtype=torch.bfloat16)

                q, k, v = rows_of(n_heads, rows), rows_of(n_kv_heads, rows), rows_of(n_kv_heads, rows)

                def sees(q_at, k_at):
                    return (k_at <= q_at) & (is_gist[k_at] | (sentence_of[q_at] == sentence_of[k_at]))

                # The last rows in double precision.
                group = n_heads // n_kv_heads
                last = index[-64:]
                kd, vd = (x[0].double().repeat_interleave(group, 0) for x in (k, v))
                s = q[0, :, -64:].double() @ kd.transpose(1, 2) / head_dim**0.5
                s = s.masked_fill(~sees(last[:, None], index[None, :]), float("-inf"))
                expected = torch.softmax(s, -1) @ vd
                del kd, vd, s

                if n_gist == 4:
                    qn, kn, vn = rows_of(n_heads, n), rows_of(n_kv_heads, n), rows_of(n_kv_heads, n)
                    dense = 4 * head_dim * n_heads * n * (n + 1) / 2 * batch

                    def cudnn():
                        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                            return F.scaled_dot_product_attention(qn, kn, vn, is_causal=True,
                                                                  enable_gqa=True)

                    run("cudnn dense causal", shape, dense, cudnn)
                    del qn, kn, vn
                if rows <= 8192 and batch == 1:
                    mask = sees(index[:, None], index[None, :])
                    run("sdpa, dense mask", shape, flops,
                        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask,
                                                               enable_gqa=True), expected)
                if flex is None:
                    continue
                try:
                    block_mask = create_block_mask(lambda b, h, i, j: sees(i, j), 1, 1, rows, rows,
                                                   device="cuda", _compile=True)
                    run("flex, sentence mask", shape, flops,
                        lambda: flex(q, k, v, block_mask=block_mask, enable_gqa=True), expected)
                    order = torch.cat((index[is_gist], index[~is_gist]))
                    permuted = create_block_mask(lambda b, h, i, j: sees(i, order[j]), 1, 1, rows,
                                                 rows, device="cuda", _compile=True)
                    kp, vp = k[:, :, order].contiguous(), v[:, :, order].contiguous()
                    run("flex, permuted", shape, flops,
                        lambda: flex(q, kp, vp, block_mask=permuted, enable_gqa=True), expected)
                except Exception as e:
                    say(what="skipped", peer="flex", **shape, reason=str(e).splitlines()[0][:200])


main()
