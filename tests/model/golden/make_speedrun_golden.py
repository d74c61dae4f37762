#!/usr/bin/env python3
"""Writes the golden values of the speedrun's models: track 3 and the records #5, #9, #11, #20, and later gates.

    python3 make_speedrun_golden.py   (needs PyTorch >= 2.4; writes the *.safetensors files beside this script)

Each model is written as its record describes it (github.com/KellerJordan/modded-nanogpt) in float64, at small
sizes; tokens, weights and the files' contents are as in make_golden.py. Where the record says something in a
roundabout way that our program does not follow (attention masks out of full and partial blocks, the norm of q and
k after the rotation), it is said the record's way here, so that the equality of the two ways is proved.
"""

import math

import torch
import torch.nn.functional as F

from make_golden import VOCAB, ids, write

EPS = 2.0**-23  # of float32: what torch's parameter-free norm adds to the mean square of float32 values
BATCH, CONTEXT = 2, 40
HEAD_DIM = 8  # of all but track 3
DOCUMENT = 7  # the token that starts documents
WIDE = 64  # rows of #20's head, more than the embedding has: logits of tokens that never come count


def norm(x, gain=None):
    return F.rms_norm(x, x.shape[-1:], gain, EPS)


def full_rotary(head_dim):
    """Radians per position, of each of the head's pairs."""
    return 10000.0 ** (-torch.arange(0, head_dim, 2).double() / head_dim)


def half_truncated_rotary(head_dim):
    return torch.cat([(1 / 1024) ** torch.linspace(0, 1, head_dim // 4), torch.zeros(head_dim // 4)])


def rotate(x, speed):
    """x [B,T,H,D]: pair (i, i + D/2) turns by minus position times speed[i]."""
    theta = torch.outer(torch.arange(x.shape[1]).double(), speed)[:, None]
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * theta.cos() + x2 * theta.sin(), x2 * theta.cos() - x1 * theta.sin()], dim=-1)


def attend(q, k, v, scale, mask=None):
    """q, k, v [B,T,H,D]; mask [B,T,T], true where a query sees a key; without one all keys before are seen."""
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None],
                                       is_causal=mask is None, scale=scale)
    return y.transpose(1, 2)


def packed(w, name, x, heads):
    """The q, k and v [B,T,H,D] of one packed matrix without bias; heads = (of q, of k, of v)."""
    rows = F.linear(x, w(name + ".weight", sum(heads) * HEAD_DIM, x.shape[-1]))
    return rows.unflatten(-1, (-1, HEAD_DIM)).split(heads, dim=2)


def project(w, name, x, out):
    return F.linear(x, w(name + ".weight", out, x.shape[-1]))


def relu2_mlp(w, name, x, inner):
    return project(w, name + ".down", project(w, name + ".up", x, inner).relu().square(), x.shape[-1])


def track3(w, tokens):
    """Track 3's train_gpt_simple.py: gains and biases everywhere, the rational softcap."""
    width, heads, head_dim, layers, inner = 32, 2, 16, 3, 48
    speed = half_truncated_rotary(head_dim)

    def gained(name, x):
        return norm(x, w(name + ".gain", width))

    def linear(name, x, out):
        return F.linear(x, w(name + ".weight", out, x.shape[-1]), w(name + ".bias", out))

    x = gained("embedding_norm", w("wte", VOCAB, width)[tokens])
    for layer in range(layers):
        h = f"h.{layer}."
        qkv = linear(h + "attention.qkv", gained(h + "norm1", x), 3 * width)
        q, k, v = (a.unflatten(-1, (heads, head_dim)) for a in qkv.chunk(3, dim=-1))
        y = attend(rotate(norm(q), speed), rotate(norm(k), speed), v, 0.12)
        x = x + linear(h + "attention.out", y.flatten(2), width)
        x = x + linear(h + "mlp.down", linear(h + "mlp.up", gained(h + "norm2", x), inner).relu().square(), width)
    z = F.linear(gained("norm", x), w("head", VOCAB, width), w("head.bias", VOCAB))
    return 15 * z / torch.sqrt(z.square() + 225)


def record5(w, tokens):
    """#5: the embedding is the head and is not normed; q and k are normed after the rotation."""
    width, heads, layers, inner = 24, 3, 4, 48
    speed = full_rotary(HEAD_DIM)
    wte = w("wte", VOCAB, width)
    x = wte[tokens]
    for layer in range(layers):
        h = f"h.{layer}."
        q, k, v = packed(w, h + "attention.qkv", norm(x), (heads,) * 3)
        y = attend(norm(rotate(q, speed)), norm(rotate(k, speed)), v, HEAD_DIM**-0.5)
        x = x + project(w, h + "attention.out", y.flatten(2), width)
        x = x + relu2_mlp(w, h + "mlp", norm(x), inner)
    return F.linear(norm(x), wte)


def shortcuts(skips):
    """#9: x0 lambdas, the first layer's values in all layers (lerp: its own mixed with themselves are themselves,
    and the scalar's gradient is exactly zero), the softcap 30 tanh(z / 30). #11: the second half of the layers takes
    what the first half gave, last first, before its lambdas."""
    width, heads, layers, inner = 24, 3, 4, 48

    def forward(w, tokens):
        speed = full_rotary(HEAD_DIM)
        x = x0 = norm(w("wte", VOCAB, width)[tokens])
        v1 = None
        given = []
        for layer in range(layers):
            h = f"h.{layer}."
            if skips and layer >= layers // 2:
                x = x + w(h + "skip", 1) * given.pop()
            x = w(h + "lambda", 1) * x + w(h + "lambda0", 1) * x0
            q, k, v = packed(w, h + "attention.qkv", norm(x), (heads,) * 3)
            v1 = v if v1 is None else v1
            v = torch.lerp(v, v1, w(h + "attention.value_mix", 1))
            y = attend(rotate(norm(q), speed), rotate(norm(k), speed), v, HEAD_DIM**-0.5)
            x = x + project(w, h + "attention.out", y.flatten(2), width)
            x = x + relu2_mlp(w, h + "mlp", norm(x), inner)
            if skips and layer < layers // 2:
                given.append(x)
        return 30 * torch.tanh(F.linear(norm(x), w("head", VOCAB, width)) / 30)

    return forward


def documents_of(row):
    return (row == DOCUMENT).cumsum(0)


def last(items, count):
    return items[max(len(items) - count, 0):]


def block_mask(row, block, window):
    """The mask [T,T] of #16 to #21. Each query block keeps the most recent of its full blocks (below the diagonal,
    everything in them seen), at most window - 1, and the most recent of its partial blocks (something in them seen),
    at most what the full ones leave of the window, but one always."""
    documents, place = documents_of(row), torch.arange(len(row))
    seen = (place[:, None] >= place) & (documents[:, None] == documents)
    mask = torch.zeros_like(seen)
    for i in range(len(row) // block):
        queries = slice(i * block, (i + 1) * block)
        tiles = [seen[queries, j * block:(j + 1) * block] for j in range(i + 1)]
        full = [j for j in range(i) if tiles[j].all()]
        partial = [j for j in range(i + 1) if tiles[j].any() and j not in full]
        for j in last(full, max(window - 1, 0)) + last(partial, max(window - len(full), 1)):
            mask[queries, j * block:(j + 1) * block] = tiles[j]
    return mask


def record20(w, tokens):
    """#20: value tables in the first and last three layers, a layer without attention, long and short windows."""
    width, heads, layers, inner, block = 16, 2, 8, 32, 4
    tables, without_attention, long = (0, 1, 2, None, None, 0, 1, 2), 4, (0, 3, 7)
    # 0.8 of the training is done; over it the window grows to 24 tokens, and is rounded up to whole blocks.
    window = math.ceil(24 * 0.8 / block)
    masks = {of: torch.stack([block_mask(row, block, of) for row in tokens]) for of in (window, window // 2)}
    speed = half_truncated_rotary(HEAD_DIM)
    x = x0 = norm(w("wte", VOCAB, width)[tokens])
    given = []
    for layer in range(layers):
        h = f"h.{layer}."
        if layer >= layers // 2:
            x = x + w(h + "skip", 1) * given.pop()
        x = w(h + "lambda", 1) * x + w(h + "lambda0", 1) * x0
        if layer != without_attention:
            q, k, v = packed(w, h + "attention.qkv", norm(x), (heads,) * 3)
            v = w(h + "attention.value_scale", 1) * v
            if tables[layer] is not None:
                rows = w(f"value_embedding.{tables[layer]}", VOCAB, heads * HEAD_DIM)[tokens]
                v = v + w(h + "attention.table_scale", 1) * rows.view_as(v)
            mask = masks[window if layer in long else window // 2]
            y = attend(rotate(norm(q), speed), rotate(norm(k), speed), v, 0.12, mask)
            x = x + project(w, h + "attention.out", y.flatten(2), width)
        x = x + relu2_mlp(w, h + "mlp", norm(x), inner)
        if layer < layers // 2:
            given.append(x)
    return 30 * torch.sigmoid(F.linear(norm(x), w("head", WIDE, width)) / 7.5)


def gates(w, tokens):
    """What no single record has together: #34's smeared embedding and #28's gates of the heads, here from 6 numbers
    of a position instead of 12; #14's mix with a table in every layer; #12's documents and window, token by token;
    and two query heads on each key/value head."""
    width, heads, kv_heads, layers, inner, window, read = 32, 4, 2, 2, 48, 9, 6
    speed = full_rotary(HEAD_DIM)
    place = torch.arange(CONTEXT)
    near = (place[:, None] >= place) & (place[:, None] - place < window)
    documents = torch.stack([documents_of(row) for row in tokens])
    mask = near & (documents[:, :, None] == documents[:, None])
    e = w("wte", VOCAB, width)[tokens]
    open_ = torch.sigmoid(project(w, "smear.gate", e[:, 1:, :read], 1))
    x = norm(torch.cat([e[:, :1], e[:, 1:] + w("smear.factor", 1) * open_ * e[:, :-1]], dim=1))
    for layer in range(layers):
        h = f"h.{layer}."
        n = norm(x)
        q, k, v = packed(w, h + "attention.qkv", n, (heads, kv_heads, kv_heads))
        rows = w(f"value_embedding.{layer}", VOCAB, kv_heads * HEAD_DIM)[tokens].view_as(v)
        share = w(h + "attention.value_mix", 1)
        k, v = (a.repeat_interleave(heads // kv_heads, dim=2) for a in (k, (1 - share) * v + share * rows))
        y = attend(rotate(norm(q), speed), rotate(norm(k), speed), v, HEAD_DIM**-0.5, mask)
        y = y * torch.sigmoid(project(w, h + "attention.gate", n[..., :read], heads))[..., None]
        x = x + project(w, h + "attention.out", y.flatten(2), width)
        x = x + relu2_mlp(w, h + "mlp", norm(x), inner)
    return F.linear(norm(x), w("head", VOCAB, width))


MODELS = {
    "track3": track3,
    "record5": record5,
    "record9": shortcuts(skips=False),
    "record11": shortcuts(skips=True),
    "record20": record20,
    "gates": gates,
}


def main():
    tokens, targets = ids("tokens", BATCH * CONTEXT), ids("targets", BATCH * CONTEXT)
    tokens[tokens == DOCUMENT] += 1
    # Sequence 0: short documents, two of them in one block of 4, then one longer than the window; sequence 1 goes on
    # with a document of before, has a border between blocks, neighbours, and a document of one token at its end.
    tokens[[0, 3, 9, 10, 13]] = DOCUMENT
    tokens[[CONTEXT + t for t in (8, 30, 31, 39)]] = DOCUMENT
    tokens[1], tokens[2], targets[3], targets[7] = 0, VOCAB - 1, VOCAB - 1, -1
    for name, model in MODELS.items():
        write(name, model, tokens, targets, CONTEXT)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
