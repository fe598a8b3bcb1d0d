"""One training measurement in PyTorch; prints one JSON line.

    python peer.py CASE MODE [--steps N] [--forward] [--seq T] [--batch B]

CASE: S (Llama-style, 8.3M parameters), M (GPT-2 small, 124M) or L (Llama-style, 4,096 tokens in a row).
MODE: eager-f32, eager-bf16, compile-f32 or compile-bf16; bf16 is autocast. A step is forward, backward and the fused
AdamW; attention is scaled_dot_product_attention. The peak memory is the whole process's.
"""

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

# d_model, layers, heads, d_ff, vocabulary, tokens of a row, rows
CASES = {
    "S": dict(style="llama", d=288, layers=6, heads=6, ff=768, vocab=8192, seq=256, batch=16),
    "M": dict(style="gpt2", d=768, layers=12, heads=12, ff=3072, vocab=50257, seq=512, batch=2),
    "L": dict(style="llama", d=512, layers=8, heads=8, ff=1376, vocab=8192, seq=4096, batch=1),
}


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c, bias):
        super().__init__()
        self.heads = c["heads"]
        self.qkv = nn.Linear(c["d"], 3 * c["d"], bias=bias)
        self.o = nn.Linear(c["d"], c["d"], bias=bias)

    def forward(self, x, angles):
        b, t, d = x.shape
        q, k, v = (m.view(b, t, self.heads, -1).transpose(1, 2) for m in self.qkv(x).chunk(3, -1))
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, d))


class LlamaBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(c["d"], eps=1e-5), nn.RMSNorm(c["d"], eps=1e-5)
        self.attention = Attention(c, bias=False)
        self.gate, self.up = (nn.Linear(c["d"], c["ff"], bias=False) for _ in range(2))
        self.down = nn.Linear(c["ff"], c["d"], bias=False)

    def forward(self, x, angles):
        x = x + self.attention(self.n1(x), angles)
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Gpt2Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(c["d"]), nn.LayerNorm(c["d"])
        self.attention = Attention(c, bias=True)
        self.up, self.down = nn.Linear(c["d"], c["ff"]), nn.Linear(c["ff"], c["d"])

    def forward(self, x, angles):
        x = x + self.attention(self.n1(x), angles)
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        llama = c["style"] == "llama"
        self.embed = nn.Embedding(c["vocab"], c["d"])
        self.positions = None if llama else nn.Embedding(c["seq"], c["d"])
        self.blocks = nn.ModuleList((LlamaBlock if llama else Gpt2Block)(c) for _ in range(c["layers"]))
        self.norm = nn.RMSNorm(c["d"], eps=1e-5) if llama else nn.LayerNorm(c["d"])
        self.head = nn.Linear(c["d"], c["vocab"], bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        if not llama:
            self.head.weight = self.embed.weight
        dh = c["d"] // c["heads"]
        angle = torch.outer(torch.arange(c["seq"]), 10000.0 ** -(torch.arange(0, dh, 2) / dh))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, targets):
        x = self.embed(ids)
        angles = (self.cos, self.sin)
        if self.positions is not None:
            x, angles = x + self.positions.weight, None
        for block in self.blocks:
            x = block(x, angles)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("mode", choices=["eager-f32", "eager-bf16", "compile-f32", "compile-bf16"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--forward", action="store_true", help="the loss alone, without gradients")
    parser.add_argument("--seq", type=int)
    parser.add_argument("--batch", type=int)
    args = parser.parse_args()
    c = dict(CASES[args.case])
    c.update({k: v for k, v in (("seq", args.seq), ("batch", args.batch)) if v})
    torch.manual_seed(1)
    model = Model(c)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if args.mode.startswith("compile") else model
    half = args.mode.endswith("bf16")
    ids = torch.randint(0, c["vocab"], (c["batch"], c["seq"] + 1))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
            if args.forward:
                with torch.no_grad():
                    return run(ids[:, :-1], ids[:, 1:])
            loss = run(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(2):
        step()
    times = []
    for _ in range(args.steps):
        begun = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - begun)
    tokens = c["batch"] * c["seq"]
    print(json.dumps({
        "case": args.case, "who": f"torch {torch.__version__} {args.mode}", "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()), "loss": round(loss.item(), 4),
        "tokens_per_second": round(tokens / statistics.median(times), 1), "steps": args.steps,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }))


if __name__ == "__main__":
    main()
