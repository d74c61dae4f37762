#!/usr/bin/env python3
"""Writes the golden values of tests/model/golden_test.cpp: losses and gradients of tiny transformers in float64.

    python3 make_golden.py            (needs PyTorch >= 2.4; writes the *.safetensors files beside this script)

The models are written here a second time, from the papers and with PyTorch's own functions, so that an error would
have to be made twice to pass. Weights are not stored: both sides compute them from the name and the index of an
element (weight_values below, golden_weight in the test), exactly representable in float32. Each file holds the
tokens, the targets, the per-token losses and the gradient of scale * sum(losses), scale = 1 / (batch * context),
for every parameter; rows of vocabulary padding do not exist on this side.
"""

import json
import math
import pathlib
import struct

import numpy
import torch
import torch.nn.functional as F

VOCAB, WIDTH, HEADS, LAYERS, BATCH, CONTEXT = 61, 32, 4, 2, 2, 12
HEAD_DIM = WIDTH // HEADS
U64 = (1 << 64) - 1


def stream(name):
    """FNV-1a, 64 bit."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & U64
    return h


def hashed(name, count):
    """splitmix64 (Steele, Lea, Flood 2014) at state stream(name) + (i + 1) * golden ratio."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(stream(name)) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def weight_values(name, shape):
    """u / 4 for matrices and tables, 1 + u / 8 for gains, u / 8 for biases, 1/2 + u / 4 for learned scalars;
    u = k / 2^15 - 1 in [-1, 1)."""
    u = (hashed(name, math.prod(shape)) >> numpy.uint64(48)).astype(numpy.float64) / 2**15 - 1
    if name.endswith("gain"):
        u = 1 + u / 8
    elif name.endswith("bias"):
        u = u / 8
    elif shape == (1,):
        u = 1 / 2 + u / 4
    else:
        u = u / 4
    return torch.from_numpy(u.reshape(shape))


class Weights(dict):
    def __call__(self, name, *shape):
        if name not in self:
            self[name] = weight_values(name, shape).requires_grad_(True)
        return self[name]


def attention(q, k, v, scale):
    """q [B,T,H,D], k and v [B,T,KV,D]: every group of H / KV query heads reads one key/value head."""
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return y.transpose(1, 2).flatten(2)


def gpt2(w, tokens):
    """Radford et al. 2019: learned positions, layer norm, biases, GELU (tanh form), tied head."""

    def norm(name, x):
        return F.layer_norm(x, (WIDTH,), w(name + ".gain", WIDTH), w(name + ".bias", WIDTH), 1e-5)

    def linear(name, x, out):
        return F.linear(x, w(name + ".weight", out, x.shape[-1]), w(name + ".bias", out))

    wte = w("wte", VOCAB, WIDTH)
    x = wte[tokens] + w("wpe", CONTEXT, WIDTH)[: tokens.shape[1]]
    for layer in range(LAYERS):
        h = f"h.{layer}."
        q, k, v = linear(h + "attention.qkv", norm(h + "norm1", x), 3 * WIDTH).split(WIDTH, dim=-1)
        split = [a.unflatten(-1, (HEADS, HEAD_DIM)) for a in (q, k, v)]
        x = x + linear(h + "attention.out", attention(*split, HEAD_DIM**-0.5), WIDTH)
        inner = F.gelu(linear(h + "mlp.up", norm(h + "norm2", x), 4 * WIDTH), approximate="tanh")
        x = x + linear(h + "mlp.down", inner, WIDTH)
    return norm("norm", x) @ wte.T


def modern(softcap):
    """The speedrun's block: embedding norm, gainless RMS norm, QK norm, half-truncated rotary of base 1024 turning
    by the negative angle, ReLU^2, untied head, softcapped logits."""
    eps, scale, factor, mlp = 1e-6, 0.12, 0.75, 64

    def norm(x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    pairs = HEAD_DIM // 2
    speed = (1 / 1024) ** torch.linspace(0, 1, pairs // 2, dtype=torch.float64)
    speed = torch.cat([speed, torch.zeros(pairs - pairs // 2, dtype=torch.float64)])
    theta = torch.outer(torch.arange(CONTEXT, dtype=torch.float64), speed)[:, None]  # [T,1,D/2]

    def rotate(x):
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat([x1 * theta.cos() + x2 * theta.sin(), -x1 * theta.sin() + x2 * theta.cos()], dim=-1)

    def forward(w, tokens):
        x = norm(w("wte", VOCAB, WIDTH)[tokens])
        for layer in range(LAYERS):
            h = f"h.{layer}."
            qkv = F.linear(norm(x), w(h + "attention.qkv.weight", 3 * WIDTH, WIDTH))
            q, k, v = qkv.unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(2)
            mixed = attention(rotate(norm(q)), rotate(norm(k)), v, scale)
            x = x + factor * F.linear(mixed, w(h + "attention.out.weight", WIDTH, WIDTH))
            inner = F.relu(F.linear(norm(x), w(h + "mlp.up.weight", mlp, WIDTH))).square()
            x = x + F.linear(inner, w(h + "mlp.down.weight", WIDTH, mlp))
        return softcap(F.linear(norm(x), w("head", VOCAB, WIDTH)))

    return forward


def llama(w, tokens):
    """Touvron et al. 2023: RMS norm with gain, rotary on interleaved pairs (as complex numbers), SwiGLU, no biases;
    two query heads per key/value head (Ainslie et al. 2023)."""
    kv_heads, mlp = 2, 40

    def norm(name, x):
        return F.rms_norm(x, (WIDTH,), w(name + ".gain", WIDTH), 1e-5)

    speed = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    turn = torch.polar(torch.ones(CONTEXT, HEAD_DIM // 2, dtype=torch.float64),
                       torch.outer(torch.arange(CONTEXT, dtype=torch.float64), speed))[:, None]

    def rotate(x):
        pairs = torch.view_as_complex(x.unflatten(-1, (HEAD_DIM // 2, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    x = w("wte", VOCAB, WIDTH)[tokens]
    for layer in range(LAYERS):
        h = f"h.{layer}."
        qkv = F.linear(norm(h + "norm1", x), w(h + "attention.qkv.weight", (HEADS + 2 * kv_heads) * HEAD_DIM, WIDTH))
        q, k, v = qkv.unflatten(-1, (-1, HEAD_DIM)).split((HEADS, kv_heads, kv_heads), dim=2)
        mixed = attention(rotate(q), rotate(k), v, HEAD_DIM**-0.5)
        x = x + F.linear(mixed, w(h + "attention.out.weight", WIDTH, HEADS * HEAD_DIM))
        gate, up = F.linear(norm(h + "norm2", x), w(h + "mlp.up.weight", 2 * mlp, WIDTH)).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, w(h + "mlp.down.weight", WIDTH, mlp))
    return F.linear(norm("norm", x), w("head", VOCAB, WIDTH))


MODELS = {
    "gpt2": gpt2,
    "modern_tanh": modern(lambda z: 30 * torch.tanh(z / 30)),
    "modern_sigmoid": modern(lambda z: 23 * torch.sigmoid((z + 5) / 7.5)),
    "modern_rational": modern(lambda z: 15 * z / torch.sqrt(z.square() + 15**2)),
    "llama": llama,
}


def save(path, tensors):
    """safetensors: the header's length (u64), the header (JSON), the bytes."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {"dtype": {"float64": "F64", "int32": "I32"}[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def ids(name, count, vocab=VOCAB):
    return ((hashed(name, count) >> numpy.uint64(33)) % numpy.uint64(vocab)).astype(numpy.int32)


def write(name, model, tokens, targets, context):
    """Runs `model` on the tokens, in sequences of `context`, and writes <name>.safetensors."""
    w = Weights()
    logits = model(w, torch.from_numpy(tokens.astype(numpy.int64)).view(-1, context)).flatten(0, 1)
    losses = F.cross_entropy(logits, torch.from_numpy(targets.astype(numpy.int64)), ignore_index=-1, reduction="none")
    (losses.sum() / len(tokens)).backward()
    values = {"tokens": tokens, "targets": targets, "losses": losses.detach().numpy()}
    values |= {"gradient." + key: value.grad.numpy() for key, value in w.items()}
    save(pathlib.Path(__file__).with_name(name + ".safetensors"), values)
    print(f"{name}: {len(w)} parameters, mean loss {losses.mean().item():.12f}")


def main():
    tokens, targets = ids("tokens", BATCH * CONTEXT), ids("targets", BATCH * CONTEXT)
    tokens[0], tokens[1], targets[3] = 0, VOCAB - 1, VOCAB - 1  # the table's two ends
    targets[7] = -1                                             # ignored: loss 0, gradient 0
    for name, model in MODELS.items():
        write(name, model, tokens, targets, CONTEXT)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
