"""Gopher's, C4's and FineWeb's filters: ours beside datatrove's."""

from bench import peer
from common import row

NEEDS = ["datatrove[processing]==0.10.1", "spacy", "zstandard"]
STEPS = ["gopher_repetition", "gopher_quality", "c4", "fineweb"]


def rows(bench):
    """Megabytes of text in a second of processor time, each filter alone and all in turn on every document."""
    from documents import write_documents  # needs what was just installed

    path = bench.file("documents.jsonl")
    write_documents(bench.data, path, bench.pick(2000, 50))
    sides = {
        "cupola": lambda: [bench.example("bench_filters"), path, bench.pick("2", "0.1")],
        "datatrove": lambda: peer("peer_filters.py", path),
    }
    values, failed = bench.turns(sides)
    ours, theirs = values.get("cupola", {}), values.get("datatrove", {})
    for name in ["all", *STEPS]:
        yield row(f"filters, {name}", "MB/CPU-s", ours.get(name), theirs.get(name), best_peer="datatrove", failed=failed)
