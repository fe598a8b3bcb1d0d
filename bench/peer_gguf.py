"""Loads GGUF files that cupola wrote into llama.cpp, by way of llama-cpp-python, and compares what it computes.

    python peer_gguf.py CASES.json

CASES.json is a list of cases; `file` is a GGUF file, and the rest says what must come out:

    {"file": …, "tokens": [{"text": …, "add": true, "ids": […]}, …]}    how texts are encoded; `add`: with the special tokens
                                                                        that go around a text
    {"file": …, "greedy": [{"prompt": […], "ids": […]}, …]}             the likeliest tokens after a prompt, one by one
    {"file": …, "logits": [{"prompt": […], "values": […], "atol": …}]}  the logits after a prompt

    {"file": …, "vectors": [{"prompt": […], "values": […], "atol": …}]} an encoder's vectors, of one token after another; without
                                                                        "prompt" but with "text", the mean of the text's

    In the cases of greedy tokens and logits "encode": […] is what an encoder-decoder's encoder reads.

    {"quantize": {"values": FILE, "type": …, "row": …, "out": FILE}}    numbers to encode, 32-bit floats in a file; the blocks
                                                                        are written, and what they are worth is the caller's

Prints a line for each file and each difference. Exit status 0: all equal; 1: something differs; 3: llama-cpp-python is not
installed.
"""

import ctypes
import json
import os
import sys

try:
    import llama_cpp
except ImportError:
    print("llama-cpp-python is not installed")
    sys.exit(3)


def load(path, vocab_only, vectors, context):
    pooling = llama_cpp.LLAMA_POOLING_TYPE_NONE if vectors else llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
    # Keys and values in 32 bits: rounding them is not what is compared.
    settings = dict(vocab_only=vocab_only, n_ctx=context, n_batch=context, n_threads=1, logits_all=not vectors,
                    embedding=vectors, pooling_type=pooling, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    try:
        return llama_cpp.Llama(model_path=path, verbose=False, **settings)
    except ValueError:
        # Once more, to say why not.
        return llama_cpp.Llama(model_path=path, verbose=True, **settings)


def argmax(values):
    return max(range(len(values)), key=lambda i: values[i])


def vectors(model, case):
    ids = case["prompt"] if "prompt" in case else model.tokenize(case["text"].encode(), add_bos=True, special=True)
    width, context = model.n_embd(), model._ctx.ctx
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    fill(batch, ids)
    assert llama_cpp.llama_encode(context, batch) == 0
    rows = [llama_cpp.llama_get_embeddings_ith(context, i)[:width] for i in range(len(ids))]
    llama_cpp.llama_batch_free(batch)
    if "prompt" in case:
        return [v for row in rows for v in row]
    return [sum(row[i] for row in rows) / len(rows) for i in range(width)]


def fill(batch, ids):
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True


def encode(model, ids):
    model._ctx.kv_cache_clear()
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    fill(batch, ids)
    assert llama_cpp.llama_encode(model._ctx.ctx, batch) == 0
    llama_cpp.llama_batch_free(batch)


def last_logits(model, ids):
    model.reset()
    model._ctx.kv_cache_clear()
    model.eval(ids)
    return [float(v) for v in model.scores[len(ids) - 1]]


def greedy(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(argmax(last_logits(model, ids)))
    return ids[len(prompt):]


def quantize(case):
    folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    library = next(os.path.join(folder, n) for n in sorted(os.listdir(folder)) if "ggml-base" in n)
    ggml = ctypes.CDLL(library)
    with open(case["values"], "rb") as file:
        raw = file.read()
    rows = len(raw) // 4 // case["row"]
    values, blocks = (ctypes.c_float * (len(raw) // 4)).from_buffer_copy(raw), (ctypes.c_uint8 * len(raw))()
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + 3 * [ctypes.c_int64] + [ctypes.c_void_p]
    size = ggml.ggml_quantize_chunk(case["type"], values, blocks, 0, rows, case["row"], None)
    with open(case["out"], "wb") as file:
        file.write(bytes(blocks[:size]))


def check(case):
    if "quantize" in case:
        quantize(case["quantize"])
        return True
    model = load(case["file"], "tokens" in case, "vectors" in case, case.get("context", 512))
    wrong, farthest = [], 0.0
    for c in case.get("tokens", []):
        got = model.tokenize(c["text"].encode(), add_bos=c["add"], special=True) if c["text"] or c["add"] else []
        if got != c["ids"]:
            wrong.append(f"{c['text']!r} (add {c['add']}): {got}, not {c['ids']}")
    for c in case.get("greedy", []):
        if "encode" in c:
            encode(model, c["encode"])
        got = greedy(model, c["prompt"], len(c["ids"]))
        if got != c["ids"]:
            wrong.append(f"after {c['prompt']}: {got}, not {c['ids']}")
    for kind, of in (("logits", last_logits), ("vectors", vectors)):
        for c in case.get(kind, []):
            if "encode" in c:
                encode(model, c["encode"])
            got = of(model, c["prompt"] if kind == "logits" else c)
            off = max(abs(a - b) for a, b in zip(got, c["values"], strict=True))
            farthest = max(farthest, off)
            if not off <= c["atol"]:
                wrong.append(f"{kind} of {c.get('prompt', c.get('text'))} are off by {off}")
    count = sum(len(case.get(kind, [])) for kind in ("tokens", "greedy", "logits", "vectors"))
    far = f", off by at most {farthest:.1e}" if "logits" in case or "vectors" in case else ""
    print(f"{case['file']}: {count - len(wrong)} of {count} equal{far}")
    for line in wrong:
        print("   ", line)
    return not wrong


with open(sys.argv[1], encoding="utf-8") as file:
    results = [check(case) for case in json.load(file)]
sys.exit(0 if all(results) else 1)
