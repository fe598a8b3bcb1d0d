"""The whole measurement; see README.md. Started by run.sh, which makes the virtual environment."""

import argparse
import importlib
import json
import sys
from datetime import date
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "train"))

from bench import Bench, install  # noqa: E402
from common import Failed, machine, note, row, table  # noqa: E402

# A part is a file here with `rows(bench)`, and `NEEDS`: what pip installs for its peers. One line each.
PARTS = [
    "extract",
    "filters",
    "dedup",
    "tokenizer",
    "shards",
    "steps",
]


def main():
    parser = argparse.ArgumentParser(prog="run.sh", description="cupola's data stage beside its peers, on this machine")
    parser.add_argument("part", nargs="*", help=f"what to measure: {', '.join(PARTS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="a little of each, to see that it works; no figures to keep")
    parser.add_argument("--rounds", type=int, help="rounds of taking turns [default: 3, quick: 1]")
    parser.add_argument("--data", type=Path, help="the folder of the test material [default: CUPOLA_DATA]")
    parser.add_argument("--table", type=Path, help="write the table to a file too")
    args = parser.parse_args()
    unknown = [part for part in args.part if part not in PARTS]
    if unknown:
        parser.error(f"there is no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    bench, rows = Bench(args), []
    for part in args.part or PARTS:
        note(part)
        for row in measured(part, bench):
            print(json.dumps({"part": part} | row | ({"quick": True} if bench.quick else {})), flush=True)
            rows.append(row)
    remarks = ["quick: no figures to keep"] if bench.quick else []
    text = f"{'; '.join([f'{date.today()}, {machine()}', *remarks])}\n\n{table(rows)}\n"
    print("\n" + text)
    if args.table:
        args.table.write_text(text, encoding="utf-8")
    missing = [row["name"] for row in rows if row["ours"] is None]
    if missing:
        note(f"{len(missing)} of {len(rows)} rows lack our figure: {', '.join(missing[:5])}")
        sys.exit(1)


def measured(part, bench):
    """The rows of a part; what it lacks to begin is a row too."""
    module = importlib.import_module(part)
    try:
        install(getattr(module, "NEEDS", []))
        yield from module.rows(bench)
    except Failed as why:
        note(f"{part}: {why}")
        yield row(part, "", failed={"all": str(why)})


if __name__ == "__main__":
    main()
