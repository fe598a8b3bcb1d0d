"""Golden files for shards, written without any code of ours: `python make.py` (needs tokenizers and numpy), in this folder.

The tokens are those of the test kit's gpt2 tokenizer by the tokenizers package. The formats are written as Megatron-LM's
`_IndexWriter`, nanoGPT's `prepare.py` and llm.c's `data_common.py` write them, by numpy; and read again as `MMapIndexedDataset` reads.
"""

import json
import struct
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
KIT = HERE.parents[3] / "base" / "testkit" / "fixtures" / "tokenizers" / "gpt2" / "tokenizer.json"
TEXTS = ["The first document.\nIt has two lines.", "", "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich.", "日本語 🦀", "x" * 50]
DTYPES = {np.uint16: 8, np.int32: 4}


def write_megatron(base, documents, dtype):
    with open(f"{base}.bin", "wb") as bin:
        for document in documents:
            bin.write(np.array(document, dtype=dtype).tobytes(order="C"))
    lengths = [len(document) for document in documents]
    pointers, at = [], 0
    for length in lengths:
        pointers.append(at)
        at += length * np.dtype(dtype).itemsize
    bounds = list(range(len(documents) + 1))
    with open(f"{base}.idx", "wb") as idx:
        idx.write(b"MMIDIDX\x00\x00")
        idx.write(struct.pack("<Q", 1))
        idx.write(struct.pack("<B", DTYPES[dtype]))
        idx.write(struct.pack("<Q", len(lengths)))
        idx.write(struct.pack("<Q", len(bounds)))
        idx.write(np.array(lengths, dtype=np.int32).tobytes(order="C"))
        idx.write(np.array(pointers, dtype=np.int64).tobytes(order="C"))
        idx.write(np.array(bounds, dtype=np.int64).tobytes(order="C"))


def read_megatron(base):
    """The documents of a shard, by the offsets of the index."""
    raw = Path(f"{base}.idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, bounds = struct.unpack("<QBQQ", raw[9:34])
    assert version == 1
    dtype = {code: dtype for dtype, code in DTYPES.items()}[code]
    lengths = np.frombuffer(raw, dtype=np.int32, count=sequences, offset=34)
    pointers = np.frombuffer(raw, dtype=np.int64, count=sequences, offset=34 + lengths.nbytes)
    first = np.frombuffer(raw, dtype=np.int64, count=bounds, offset=34 + lengths.nbytes + pointers.nbytes)
    assert list(first) == list(range(sequences + 1))
    tokens = np.memmap(f"{base}.bin", dtype=dtype, mode="r", order="C") if sum(lengths) else np.array([], dtype=dtype)
    size = np.dtype(dtype).itemsize
    return [tokens[p // size : p // size + n].tolist() for p, n in zip(pointers, lengths)]


def main():
    tokenizer = Tokenizer.from_file(str(KIT))
    end = tokenizer.token_to_id("<|endoftext|>")
    documents = [[*tokenizer.encode(text, add_special_tokens=False).ids, end] for text in TEXTS]
    (HERE / "documents.json").write_text(json.dumps({"texts": TEXTS, "ids": documents}, ensure_ascii=False) + "\n")
    write_megatron(HERE / "narrow", documents, np.uint16)
    assert read_megatron(HERE / "narrow") == documents
    write_megatron(HERE / "wide", [[1, 70_000, 151_643], [], [5]], np.int32)
    flat = np.array([id for document in documents for id in document], dtype=np.uint16)
    flat.tofile(HERE / "nanogpt.bin")
    header = np.zeros(256, dtype=np.int32)
    header[:3] = [20240520, 1, len(flat)]
    with open(HERE / "llm_c.bin", "wb") as file:
        file.write(header.tobytes())
        file.write(flat.tobytes())


if __name__ == "__main__":
    main()
