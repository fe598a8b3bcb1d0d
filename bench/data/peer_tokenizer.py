"""The tokenizers package and tiktoken: `encode PEER VOCABULARY TEXTS SECONDS`, `train VOCAB_SIZE OUT TEXTS`, `ids VOCABULARY TEXTS OUT`.

VOCABULARY is a folder with GPT-2's vocab.json and merges.txt, TEXTS a file of JSON lines with `text`.
"""

import json
import resource
import sys
import time
from pathlib import Path

# As tiktoken itself writes GPT-2's pattern.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def texts_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def library(folder):
    from tokenizers import ByteLevelBPETokenizer

    # The class itself, which has the fastest of its calls.
    return ByteLevelBPETokenizer(str(Path(folder) / "vocab.json"), str(Path(folder) / "merges.txt"))._tokenizer


def openai(folder):
    import tiktoken

    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    vocab = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
    special = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
    ranks = {bytes(letters[c] for c in token): id for token, id in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def line(name, value):
    print(json.dumps({"name": name, "value": value}), flush=True)


def encode(peer, folder, path, seconds):
    """Megabytes in a second of processor time, on one thread and on all; as many texts as there is time for."""
    texts = texts_of(path)
    if peer == "tokenizers":
        made = library(folder)
        one = lambda text: len(made.encode(text, add_special_tokens=False).ids)
        many = lambda texts: sum(len(e.ids) for e in made.encode_batch_fast(texts, add_special_tokens=False))
    else:
        made = openai(folder)
        one = lambda text: len(made.encode_ordinary(text))
        many = lambda texts: sum(len(ids) for ids in made.encode_ordinary_batch(texts, num_threads=2))
    sides = [
        ("encode, one thread", lambda group: sum(one(text) for text in group)),
        ("encode, all threads", many),
    ]
    groups = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    for name, run in sides:
        run(groups[0])
        started, cpu, moved, at = time.monotonic(), time.process_time(), 0, 0
        while at == 0 or time.monotonic() - started < float(seconds):
            group = groups[at % len(groups)]
            run(group)
            moved, at = moved + sum(len(text.encode()) for text in group), at + 1
        line(name, moved / 1e6 / (time.process_time() - cpu))
        line(name + ", by the clock", moved / 1e6 / (time.monotonic() - started))


def train(vocab_size, out, path):
    """Seconds of processor time for a vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = texts_of(path)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(vocab_size),
        min_frequency=2,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    started, cpu = time.monotonic(), time.process_time()
    tokenizer.train_from_iterator(texts, trainer)
    line("train", time.process_time() - cpu)
    line("train, by the clock", time.monotonic() - started)
    line("train, memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    tokenizer.save(out)


def ids(folder, path, out):
    """The ids of each text, one JSON list a line, by the tokenizers package."""
    made = library(folder)
    with open(out, "w", encoding="utf-8") as file:
        for text in texts_of(path):
            file.write(json.dumps(made.encode(text, add_special_tokens=False).ids) + "\n")


if __name__ == "__main__":
    {"encode": encode, "train": train, "ids": ids}[sys.argv[1]](*sys.argv[2:])
