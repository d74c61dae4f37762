#!/usr/bin/env python3
"""The PyTorch side of scripts/bench_gpu: a training step of the same architecture on one GPU.

bf16 weights in use over float32 masters, torch.compile, scaled_dot_product_attention (its flash or cuDNN kernel), fused
AdamW on embedding, head, gains and biases, and a compiled Muon on the matrices, batched by shape. Prints one JSON object,
as `spectrain bench --json` does.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

POLAR_EXPRESS = [(8.156554524902461, -22.48329292557795, 15.878769915207462),
                 (4.042929935166739, -2.808917465908714, 0.5000178451051316),
                 (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
                 (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
                 (2.3465413258596377, -1.7097828382687081, 0.42323551169305323)]


class Linear(nn.Linear):
    """float32 weights, used in the dtype of the activations."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.gain.to(x.dtype), 1e-5)


class LayerNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Rotary(nn.Module):
    """Half of the pairs turn, base 1024, as the speedrun has it."""

    def __init__(self, head_dim, context):
        super().__init__()
        quarter = head_dim // 4
        speed = torch.cat([(1 / 1024) ** torch.linspace(0, 1, quarter), torch.zeros(quarter)])
        angle = torch.outer(torch.arange(context, dtype=torch.float32), speed)
        self.register_buffer("cos", angle.cos()[None, :, None].bfloat16(), persistent=False)
        self.register_buffer("sin", angle.sin()[None, :, None].bfloat16(), persistent=False)

    def forward(self, x):
        a, b = x.chunk(2, dim=-1)
        cos, sin = self.cos[:, :x.shape[1]], self.sin[:, :x.shape[1]]
        return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        norm = RmsNorm if c.track3 else LayerNorm
        self.norm1, self.norm2 = norm(c.width), norm(c.width)
        self.qkv, self.out = Linear(c.width, 3 * c.width), Linear(c.width, c.width)
        self.up, self.down = Linear(c.width, 4 * c.width), Linear(4 * c.width, c.width)
        self.rotary = Rotary(c.width // c.heads, c.context) if c.track3 else None

    def attention(self, x):
        b, t, width = x.shape
        d = width // self.c.heads
        q, k, v = self.qkv(x).view(b, t, 3, self.c.heads, d).unbind(2)
        scale = None
        if self.rotary is not None:
            q, k = (self.rotary(F.rms_norm(y, (d,))) for y in (q, k))
            scale = 0.12
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True,
                                           scale=scale)
        return self.out(y.transpose(1, 2).reshape(b, t, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        h = self.up(self.norm2(x))
        h = F.relu(h).square() if self.c.track3 else F.gelu(h, approximate="tanh")
        return x + self.down(h)


class Gpt(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wte = nn.Embedding(c.vocab, c.width)
        self.wpe = None if c.track3 else nn.Embedding(c.context, c.width)
        self.embedding_norm = RmsNorm(c.width) if c.track3 else None
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = (RmsNorm if c.track3 else LayerNorm)(c.width)
        self.head = Linear(c.width, c.vocab) if c.track3 else None
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens)
        if self.wpe is not None:
            x = x + self.wpe.weight[: tokens.shape[1]]
        x = x.bfloat16()
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits = (self.head(x) if self.head is not None else F.linear(x, self.wte.weight.to(x.dtype))).float()
        if self.c.track3:
            logits = 15 * logits * torch.rsqrt(logits.square() + 225)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


@torch.compile
def orthogonalize(g, steps):
    """Batch of matrices [b, rows, cols] with rows <= cols, by Polar Express in bf16."""
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)).bfloat16()
    for i in range(steps):
        a, b, c = (2.0, -1.5, 0.5) if steps == 12 else POLAR_EXPRESS[i]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    def __init__(self, parameters, lr, momentum, decay, steps):
        self.lr, self.momentum, self.decay, self.steps = lr, momentum, decay, steps
        self.shapes = {}
        for p in parameters:
            self.shapes.setdefault(tuple(p.shape), []).append(p)
        self.state = {p: torch.zeros_like(p) for list_ in self.shapes.values() for p in list_}

    @torch.no_grad()
    def step(self):
        for (rows, cols), list_ in self.shapes.items():
            gradients, states = [p.grad for p in list_], [self.state[p] for p in list_]
            torch._foreach_lerp_(states, gradients, 1 - self.momentum)
            updates = torch._foreach_lerp(gradients, states, self.momentum)
            splits = 3 if rows == 3 * cols else 1  # q, k and v are three matrices
            u = torch.stack(updates).view(-1, rows // splits, cols)
            tall = u.shape[-2] > u.shape[-1]
            o = orthogonalize(u.mT.contiguous() if tall else u, self.steps)
            o = (o.mT if tall else o).reshape(len(list_), rows, cols).float()
            scale = max(1.0, rows / splits / cols) ** 0.5
            torch._foreach_mul_(list_, 1 - self.lr * self.decay)
            torch._foreach_add_(list_, list(o.unbind(0)), alpha=-self.lr * scale)


def main():
    a = argparse.ArgumentParser()
    for name, default in [("layers", 12), ("width", 768), ("heads", 12), ("vocab", 50304), ("batch", 64),
                          ("context", 1024), ("steps", 20)]:
        a.add_argument(f"--{name}", type=int, default=default)
    a.add_argument("--track3", action="store_true")
    a.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    a.add_argument("--newton-schulz", type=int, default=5)
    a.add_argument("--no-compile", action="store_true")
    a = a.parse_args()
    begun = time.perf_counter()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Gpt(a).cuda()
    hidden = [p for b in model.blocks for p in (b.qkv.weight, b.out.weight, b.up.weight, b.down.weight)]
    if a.optimizer == "adamw":
        optimizers = [torch.optim.AdamW(model.parameters(), 1e-4, fused=True)]
    else:
        own = {id(p) for p in hidden}
        rest = [p for p in model.parameters() if id(p) not in own]
        optimizers = [torch.optim.AdamW(rest, 1e-4, fused=True), Muon(hidden, 1e-4, 0.95, 0.01, a.newton_schulz)]
    run = model if a.no_compile else torch.compile(model)
    tokens = torch.randint(0, a.vocab, (a.batch, a.context), device="cuda")
    targets = torch.randint(0, a.vocab, (a.batch, a.context), device="cuda")
    seconds, optimizer_seconds, first = [], [], 0
    for step in range(a.steps + 5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run(tokens, targets).backward()
        torch.cuda.synchronize()
        middle = time.perf_counter()
        for o in optimizers:
            o.step()
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        end = time.perf_counter()
        if step == 0:
            first = end - begun
        if step >= 5:
            seconds.append(end - begin)
            optimizer_seconds.append(end - middle)
    median = statistics.median(seconds)
    print(json.dumps({"program": f"PyTorch {torch.__version__}", "device": torch.cuda.get_device_name(),
                      "step_seconds": median, "tokens_per_second": a.batch * a.context / median,
                      "optimizer_seconds": statistics.median(optimizer_seconds), "first_step_seconds": first,
                      "memory_bytes": torch.cuda.max_memory_allocated()}))


main()
