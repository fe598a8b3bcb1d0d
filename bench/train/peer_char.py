"""nanoGPT's CPU setting for Shakespeare's characters, trained in PyTorch from our own description of the model; prints one
JSON line with the bits per byte of the held-out tenth over the seconds of training.

    python peer_char.py TEXT [--steps N] [--evaluations N] [--compile]

4 layers, 4 heads, 128 wide, 64 characters of context, 12 rows, 2,000 steps, no dropout; AdamW. Evaluation and, with
--compile, compilation are not counted.
"""

import argparse
import json
import math
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn

LAYERS, HEADS, D, CONTEXT, ROWS = 4, 4, 128, 64, 12
LR, LEAST_LR, WARMUP, CLIP, DECAY, BETAS = 1e-3, 1e-4, 100, 1.0, 0.1, (0.9, 0.99)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.qkv, self.o = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.up, self.down = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (m.view(b, t, HEADS, -1).transpose(1, 2) for m in self.qkv(self.n1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, D))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, D), nn.Embedding(CONTEXT, D)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(D, bias=False)
        self.head = nn.Linear(D, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        for name, p in self.named_parameters():
            if p.dim() > 1:
                # What adds to the residual stream starts smaller, by the number of additions (GPT-2).
                last = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if last else 0.02)

    def forward(self, ids, targets, reduction="mean"):
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction=reduction)


def rate(step, steps):
    """Warm-up, then a cosine to the least rate."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / max(steps - WARMUP, 1)
    return LEAST_LR + 0.5 * (LR - LEAST_LR) * (1 + math.cos(math.pi * min(progress, 1)))


def bits_per_byte(model, ids, size):
    """Over all of a text, in windows of the context."""
    nats = 0.0
    with torch.no_grad():
        whole = (len(ids) - 1) // CONTEXT * CONTEXT
        x, y = ids[:whole].view(-1, CONTEXT), ids[1 : whole + 1].view(-1, CONTEXT)
        for a, b in zip(x.split(128), y.split(128)):
            nats += model(a, b, "sum").item()
        if whole < len(ids) - 1:
            nats += model(ids[None, whole:-1], ids[None, whole + 1 :], "sum").item()
    return nats / math.log(2) / size


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    text = open(args.text, encoding="utf-8", newline="").read()
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[c] for c in text])
    cut = int(0.9 * len(ids))
    train, held_out, size = ids[:cut], ids[cut:], len(text[cut:].encode())

    torch.manual_seed(1337)
    places = numpy.random.default_rng(1337)
    model = Model(len(alphabet))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=DECAY), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    run = torch.compile(model) if args.compile else model

    def batch():
        at = torch.from_numpy(places.integers(0, len(train) - CONTEXT, ROWS))[:, None] + torch.arange(CONTEXT)
        return train[at], train[at + 1]

    if args.compile:
        run(*batch()).backward()
        optimizer.zero_grad(set_to_none=True)
    seconds, curve = 0.0, []
    every = -(-args.steps // args.evaluations)
    begun = time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps)
        loss = run(*batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 or step + 1 == args.steps:
            seconds += time.perf_counter() - begun
            curve.append([round(seconds, 3), round(bits_per_byte(model, held_out, size), 4)])
            begun = time.perf_counter()
    print(json.dumps({
        "who": f"torch {torch.__version__} {'compile' if args.compile else 'eager'}-f32",
        "threads": torch.get_num_threads(), "parameters": sum(p.numel() for p in model.parameters()),
        "steps": args.steps, "seconds": round(seconds, 3), "bits_per_byte": curve[-1][1], "curve": curve,
    }))


if __name__ == "__main__":
    main()
