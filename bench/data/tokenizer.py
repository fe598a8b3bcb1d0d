"""Encoding and training of byte-level BPE: ours beside the tokenizers package and tiktoken."""

import json

from bench import peer
from common import Failed, call, row

NEEDS = ["tokenizers==0.23.3", "tiktoken==0.14.0"]
VOCAB_SIZE = 32_000
# Bytes of text for training; the material has 25 MB, the rest is made of it by variation (texts.py).
TRAINING = 234_000_000


def rows(bench):
    from texts import write_texts

    texts = bench.file("texts.jsonl")
    write_texts(bench.data, texts)
    yield from encoding(bench, texts)
    more = bench.file("training.jsonl")
    size = write_texts(bench.data, more, bench.pick(TRAINING, 1))
    yield from training(bench, more, size)


def encoding(bench, texts):
    """Megabytes of text in a second of processor time with GPT-2's vocabulary."""
    vocabulary = bench.data / "tokenizer" / "gpt2"
    seconds = bench.pick("4", "0.2")
    ours = lambda: [bench.example("bench_tokenizer", "cupola-tokenizer"), "encode", vocabulary, texts, seconds]
    theirs = lambda name: peer("peer_tokenizer.py", "encode", name, vocabulary, texts, seconds)
    sides = {"cupola": ours, "tokenizers": lambda: theirs("tokenizers"), "tiktoken": lambda: theirs("tiktoken")}
    values, failed = bench.turns(sides)
    for name in ["encode, one thread", "encode, all threads", "encode, all threads, by the clock"]:
        peers = {side: values.get(side, {}).get(name) for side in ["tokenizers", "tiktoken"]}
        best = max((side for side in peers if peers[side]), key=lambda side: peers[side], default=None)
        figure = values.get("cupola", {}).get(name)
        unit = "MB/s" if "clock" in name else "MB/CPU-s"
        yield row(name, unit, figure, peers.get(best), best_peer=best, peers=peers, failed=failed)


def training(bench, texts, size):
    """Seconds of processor time for a vocabulary of 32,000, the memory, and whether the merges are the same."""
    out = bench.file("trained")
    saved = bench.file("theirs.json")
    program = lambda: [bench.example("bench_tokenizer", "cupola-tokenizer"), "train", str(VOCAB_SIZE), out, texts]
    sides = {"cupola": program, "tokenizers": lambda: peer("peer_tokenizer.py", "train", str(VOCAB_SIZE), saved, texts)}
    values, failed = bench.turns(sides)
    ours, theirs = values.get("cupola", {}), values.get("tokenizers", {})
    remark = f"{size / 1e6:.0f} MB, {VOCAB_SIZE} tokens"
    for name, unit in [("train", "CPU-s"), ("train, by the clock", "s"), ("train, memory", "bytes")]:
        figures = (ours.get(name), theirs.get(name))
        yield row(name, unit, *figures, less=True, best_peer="tokenizers", remark=remark, failed=failed)
    if not failed:
        models = [json.loads(path.read_text(encoding="utf-8"))["model"] for path in [out / "tokenizer.json", saved]]
        same = all(models[0][key] == models[1][key] for key in ["vocab", "merges"])
        yield row("train, equal merges", "share", 1.0 if same else 0.0, limit=1.0)
