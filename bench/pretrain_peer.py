"""The quickstart's training step in PyTorch: the same shapes, AdamW, clipping; prints tokens per second.

    python bench/pretrain_peer.py [steps]

Compare with `tokens/s` of `cupola run recipes/quickstart/recipe.toml --only base`.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

DEPTH, D, HEADS, KV, FF, VOCAB, SEQ, BATCH = 4, 192, 6, 3, 512, 1024, 256, 8
DH = D // HEADS


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(D, eps=1e-5), nn.RMSNorm(D, eps=1e-5)
        self.q, self.k, self.v = (nn.Linear(D, h * DH, bias=False) for h in (HEADS, KV, KV))
        self.o = nn.Linear(HEADS * DH, D, bias=False)
        self.gate, self.up, self.down = nn.Linear(D, FF, bias=False), nn.Linear(D, FF, bias=False), nn.Linear(FF, D, bias=False)

    def forward(self, x, cos, sin):
        h = self.n1(x)
        q, k, v = (m(h).view(BATCH, SEQ, -1, DH).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(BATCH, SEQ, -1))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCAB, D), nn.RMSNorm(D, eps=1e-5)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(D, VOCAB, bias=False)
        angle = torch.outer(torch.arange(SEQ), 10000.0 ** -(torch.arange(0, DH, 2) / DH))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, targets):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).view(-1, VOCAB), targets.reshape(-1))


def main():
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.manual_seed(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, VOCAB, (BATCH, SEQ + 1))
    for step in range(steps + 5):
        if step == 5:
            start = time.perf_counter()
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {steps * BATCH * SEQ / seconds:.0f} tokens/s, loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
