"""Whether our filters judge documents as datatrove's do, with the same thresholds.

    bench/data/verdicts.py OURS DOCUMENTS [THEIRS]

OURS is the example program `bench_filters`, DOCUMENTS a file with `id` and `text` as JSON lines (written with --data FOLDER
from the test material where there is none). THEIRS keeps datatrove's verdicts for another time. Prints the share of equal
verdicts of each filter, and every difference. Exit status 1 when a share is below 0.99.
"""

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path

from datatrove_filters import FILTERS, judge, make

FAMILIES = ("gopher_", "c4_", "fineweb_")


def plain(reason):
    """datatrove's name of our reason, without its family: theirs have one only in part."""
    for family in FAMILIES:
        reason = reason.removeprefix(family)
    return reason


def theirs(documents, keep):
    if keep and keep.exists():
        return [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
    filters, verdicts = make(), []
    for document in documents:
        line = {"id": document["id"]}
        for name, one in filters.items():
            line[name], text = judge(one, document["text"])
            if name == "c4":
                line["c4_text"] = text
        verdicts.append(line)
    if keep:
        keep.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in verdicts), encoding="utf-8")
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours")
    parser.add_argument("documents", type=Path)
    parser.add_argument("theirs", type=Path, nargs="?")
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    if args.data and not args.documents.exists():
        from documents import write_documents

        write_documents(args.data, args.documents)
    documents = [json.loads(line) for line in args.documents.open(encoding="utf-8")]
    told = subprocess.run([args.ours, args.documents, "verdicts"], check=True, capture_output=True, text=True).stdout
    ours = [json.loads(line) for line in told.splitlines()]
    differences, worst = collections.defaultdict(list), 1.0
    for document, a, b in zip(documents, ours, theirs(documents, args.theirs), strict=True):
        for name in FILTERS:
            if plain(a[name]) != plain(b[name]):
                differences[name].append(f"{document['id']}: ours {a[name]}, theirs {b[name]}")
        if a["c4"] == b["c4"] == "keep" and a["c4_text"] != b["c4_text"]:
            differences["c4, text kept"].append(document["id"])
    for name in [*FILTERS, "c4, text kept"]:
        equal = 1 - len(differences[name]) / len(documents)
        worst = min(worst, equal)
        print(f"{name}: {100 * equal:.2f}% of {len(documents)} equal")
        for line in differences[name]:
            print("  " + line)
    sys.exit(worst < 0.99)


if __name__ == "__main__":
    main()
