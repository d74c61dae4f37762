#!/usr/bin/env python3
"""The PyTorch side of scripts/bench_cpu: a GPT-2 training step (forward, backward, AdamW) on the CPU.

Prints one JSON object with the median seconds per step, as `spectrain bench --json` does. Written to be as fast as
eager PyTorch is without tricks: fused attention, tanh GELU, fused AdamW where this version has it.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        b, t, c = x.shape
        q, k, v = (a.view(b, t, self.heads, c // self.heads).transpose(1, 2) for a in self.qkv(x).split(c, 2))
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.ones(t, t, dtype=torch.bool).triu(1)
            scores = (q @ k.transpose(-2, -1)) / (c // self.heads) ** 0.5
            y = F.softmax(scores.masked_fill(mask, float("-inf")), -1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, vocab, context, layers, width, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def main():
    a = argparse.ArgumentParser()
    for name, default in [("layers", 12), ("width", 768), ("heads", 12), ("vocab", 50304), ("batch", 4),
                          ("context", 64), ("steps", 3), ("threads", 2)]:
        a.add_argument(f"--{name}", type=int, default=default)
    a.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = GPT(a.vocab, 1024, a.layers, a.width, a.heads)
    try:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    except (RuntimeError, TypeError):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    tokens = torch.randint(0, 50257, (a.batch, a.context))
    targets = torch.randint(0, 50257, (a.batch, a.context))
    seconds = []
    for step in range(a.steps + 1):
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = model(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step > 0:
            seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    print(json.dumps({"program": f"PyTorch {torch.__version__}", "step_seconds": median,
                      "tokens_per_second": a.batch * a.context / median}))


main()
