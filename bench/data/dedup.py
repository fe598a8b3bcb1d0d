"""Near duplicates by MinHash over shingles of 5 words, 14 bands of 8 rows, from a file of documents to a file of those that stay: ours
beside rensa, datasketch and datatrove."""

import csv
import json

from bench import peer
from common import row

NEEDS = ["datatrove[processing]==0.10.1", "spacy", "rensa==0.5.0", "datasketch==2.0.0", "orjson", "zstandard"]
PEERS = ["rensa", "datasketch", "datatrove"]
# Kinds of copies in the table of copies, and what they are called here.
KINDS = {"exact 0.0": "exact copies", "near 0.02": "2% edited", "near 0.05": "5% edited", "near 0.1": "10% edited"}


def rows(bench):
    """Megabytes of text in a second of processor time, the most memory, and how many of the copies were found."""
    documents, ids, truth = write_documents(bench)
    ours = lambda name, *settings: peer("measured.py", documents, bench.example("bench_dedup"), documents, bench.file(name), *settings)
    sides = {"cupola": lambda: ours("cupola"), "cupola, edited": lambda: ours("edited", "preset = 'edited'")}
    for name in PEERS:
        sides[name] = lambda name=name: peer("peer_dedup.py", name, documents, bench.file(name))
    values, failed = bench.turns(sides)
    ours = values.get("cupola", {})
    for name in PEERS:
        theirs, more = values.get(name, {}), dict(best_peer=name, failed=failed)
        yield row(f"near duplicates beside {name}", "MB/CPU-s", ours.get("speed"), theirs.get("speed"), **more)
        yield row(f"memory beside {name}", "MiB", ours.get("memory"), theirs.get("memory"), less=True, **more)
    edited = values.get("cupola, edited", {})
    yield row("near duplicates, preset edited", "MB/CPU-s", edited.get("speed"), failed=failed)
    left = {side: kept(bench, side) for side in ["cupola", "edited", *PEERS]}
    for side in ["cupola", "edited"]:
        for kind, title in KINDS.items():
            found = {name: recall(ids, truth, kind) for name, ids in left.items()}
            best = max(PEERS, key=lambda name: found[name] or 0)
            yield row(f"recall, {title}, {side}", "share", found[side], found[best], best_peer=best)
        yield row(f"precision, {side}", "share", precision(left[side], ids, truth))


def write_documents(bench):
    """The documents as plain JSON lines, which every side reads, and what is known of their copies."""
    import zstandard

    folder = bench.data / "dedup"
    text = zstandard.ZstdDecompressor(max_window_size=1 << 25).stream_reader((folder / "docs.jsonl.zst").read_bytes()).read()
    lines = text.splitlines(keepends=True)[: bench.pick(None, 4000)]
    path = bench.file("documents.jsonl")
    path.write_bytes(b"".join(lines))
    with open(folder / "truth.csv", encoding="utf-8") as table:
        truth = list(csv.DictReader(table))
    ids = {json.loads(line)["id"] for line in lines}
    return path, ids, [copy for copy in truth if copy["id"] in ids and copy["original_id"] in ids]


def kept(bench, side):
    """The names of the documents that a side left."""
    import zstandard

    folder, names = bench.file(side), set()
    if not folder.is_dir():
        return None
    for path in folder.iterdir():
        if path.name.endswith(".jsonl"):
            names |= {json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()}
        elif path.name == "train.jsonl.zst":
            text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
            names |= {json.loads(line)["id"] for line in text.splitlines()}
    return names


def recall(left, truth, kind):
    """The share of the pairs of a kind of which one went."""
    pairs = [copy for copy in truth if f"{copy['kind']} {copy['edit_rate']}" == kind]
    if left is None or not pairs:
        return None
    return sum(not {pair["id"], pair["original_id"]} <= left for pair in pairs) / len(pairs)


def precision(left, ids, truth):
    """The share of those that went that belong to a pair of copies."""
    if left is None or left == ids:
        return None
    copied = {name for copy in truth for name in (copy["id"], copy["original_id"])}
    return len((ids - left) & copied) / len(ids - left)
