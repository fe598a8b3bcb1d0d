"""From Parquet to packed shards, with GPT-2's vocabulary."""

from common import row

NEEDS = ["pyarrow"]
# Megabytes in a second of processor time, and bytes of memory, that are wanted.
SPEED, MEMORY = 10, 2 << 30


def rows(bench):
    import json

    import pyarrow
    import pyarrow.parquet
    from texts import write_texts

    texts, table, out = bench.file("texts.jsonl"), bench.file("texts.parquet"), bench.file("shards")
    write_texts(bench.data, texts, bench.pick(200_000_000, 1))
    with open(texts, encoding="utf-8") as lines:
        columns = {"text": [json.loads(line)["text"] for line in lines]}
    pyarrow.parquet.write_table(pyarrow.table(columns), table, compression="zstd", row_group_size=1000)
    number = iter(range(1000))
    vocabulary = bench.data / "tokenizer" / "gpt2"
    program = lambda: [bench.example("bench_shards", "cupola-tokenizer"), vocabulary, table, f"{out}-{next(number)}"]
    values, failed = bench.turns({"cupola": program})
    ours = values.get("cupola", {})
    yield row("Parquet to packed shards", "MB/CPU-s", ours.get("shards, packed"), limit=SPEED, failed=failed)
    yield row("Parquet to shards", "MB/CPU-s", ours.get("shards"), failed=failed)
    yield row("Parquet to packed shards, memory", "bytes", ours.get("memory"), limit=MEMORY, less=True, failed=failed)
    yield row("rows of 2,048 tokens, how full", "share", ours.get("full"), limit=1.0, failed=failed)
    yield row("rows read in random order", "M tokens/CPU-s", ours.get("rows read in random order"), failed=failed)
