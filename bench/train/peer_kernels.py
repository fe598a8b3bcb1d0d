"""PyTorch's products and memory-bound operations in the rows of `bench_kernels`; one JSON line per figure.

    python peer_kernels.py [seconds per line]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

# rows, inputs and outputs of a linear layer, as in bench_kernels
SHAPES = [
    (256, 256, 256),
    (512, 512, 512),
    (4096, 288, 768),
    (4096, 288, 8192),
    (1024, 768, 3072),
    (1024, 768, 50257),
    (2048, 2048, 2048),
]
FLOATS, D = 32 << 20, 2048


def best(seconds, work):
    """The best time of a call, two calls at least."""
    start, least, calls = time.perf_counter(), float("inf"), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - begun)
        calls += 1
    return least


def show(name, precision, unit, value):
    who = f"torch {torch.__version__}"
    line = dict(name=name, precision=precision, who=who, value=round(value / 1e9, 2), unit=unit)
    print(json.dumps(line | dict(threads=torch.get_num_threads())), flush=True)


def products(precision, dtype, n, k, m, seconds):
    x, w, dy = (torch.rand(shape).mul_(2).sub_(1).to(dtype) for shape in ((n, k), (m, k), (n, m)))
    for product, a, b in (("x wT", x, w.t()), ("dy w", dy, w), ("dyT x", dy.t(), x)):
        c = torch.empty(a.shape[0], b.shape[1], dtype=dtype)
        time_of_it = best(seconds, lambda: torch.mm(a, b, out=c))
        show(f"{n}x{k}x{m} {product}", precision, "GFLOP/s", 2 * n * k * m / time_of_it)


def moves(name, floats, seconds, work):
    """A row that memory limits; an array read or written once counts once, one changed in place twice."""
    show(name, "f32", "GB/s", 4 * floats / best(seconds, work))


def backward(name, floats, seconds, y, inputs):
    """The gradients alone, of a result that is already there."""
    dy = torch.ones_like(y)
    moves(name, floats, seconds, lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True))


def memory(seconds):
    x, w = torch.randn(FLOATS // D, D), torch.randn(D)
    moves("rms_norm", 2 * FLOATS, seconds, lambda: F.rms_norm(x, (D,), w, 1e-5))
    x.requires_grad_(), w.requires_grad_()
    backward("rms_norm backward", 3 * FLOATS, seconds, F.rms_norm(x, (D,), w, 1e-5), (x, w))

    gate, up = torch.randn(FLOATS), torch.randn(FLOATS)
    moves("swiglu", 3 * FLOATS, seconds, lambda: F.silu(gate) * up)
    gate.requires_grad_(), up.requires_grad_()
    backward("swiglu backward", 5 * FLOATS, seconds, F.silu(gate) * up, (gate, up))

    p = torch.nn.Parameter(torch.randn(FLOATS))
    p.grad = torch.randn(FLOATS)
    step = torch.optim.AdamW([p], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True).step
    moves("adamw", 7 * FLOATS, seconds, step)
    del p, step, gate, up

    rows, d, n = 50257, 768, 16384
    ids, weight = torch.randint(0, rows, (n,)), torch.randn(rows, d)
    moves("embedding", 2 * n * d, seconds, lambda: F.embedding(ids, weight))
    weight.requires_grad_()
    backward("embedding backward", n * d + rows * d, seconds, F.embedding(ids, weight), (weight,))

    d_head, context = 64, 4096
    heads = torch.randn(FLOATS // D, D // d_head, d_head)
    angle = torch.outer(torch.arange(context), 1e-4 ** (torch.arange(d_head // 2) / (d_head // 2)))
    at = torch.arange(FLOATS // D) % context
    cos, sin = angle.cos()[at][:, None], angle.sin()[at][:, None]

    def rotate():
        a, b = heads.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    moves("rope", 2 * FLOATS, seconds, rotate)

    logits = torch.randn(FLOATS // 8192, 8192)
    moves("log_softmax", 2 * FLOATS, seconds, lambda: F.log_softmax(logits, -1))


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    torch.manual_seed(1)
    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        for shape in SHAPES:
            products(precision, dtype, *shape, seconds)
    memory(seconds)


if __name__ == "__main__":
    main()
