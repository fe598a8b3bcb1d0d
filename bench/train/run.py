"""The whole measurement; see README.md. Started by run.sh, which makes PyTorch available."""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import kernels
import loss
import step
from common import Bench, machine, note, table

PARTS = {
    "step": step.rows,
    "kernels": kernels.rows,
    "time-to-loss": loss.time_to_loss,
    "curve": loss.short_numbers,
}


def main():
    parser = argparse.ArgumentParser(prog="run.sh", description="cupola's training beside PyTorch, on this machine")
    parser.add_argument("part", nargs="*", help=f"what to measure: {', '.join(PARTS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to see that it works; no figures to keep")
    parser.add_argument("--rounds", type=int, help="rounds of taking turns [default: 3, quick: 1]")
    parser.add_argument("--case", nargs="+", choices=step.STEPS, help="of `step`, these cases alone")
    parser.add_argument("--table", type=Path, help="write the table to a file too")
    parser.add_argument("--step-program", help="measure another program with bench_step's arguments, e.g. an earlier build")
    args = parser.parse_args()
    unknown = [part for part in args.part if part not in PARTS]
    if unknown:
        parser.error(f"there is no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    bench, rows = Bench(args), []
    for part in args.part or PARTS:
        note(part)
        for row in PARTS[part](bench):
            print(json.dumps({"part": part} | row | ({"quick": True} if bench.quick else {})), flush=True)
            rows.append(row)
    text = f"{date.today()}, {machine()}{', quick: no figures to keep' if bench.quick else ''}\n\n{table(rows)}\n"
    print("\n" + text)
    if args.table:
        args.table.write_text(text, encoding="utf-8")
    missing = [row["name"] for row in rows if row["ours"] is None]
    if missing:
        note(f"{len(missing)} of {len(rows)} rows lack our figure: {', '.join(missing[:5])}")
        sys.exit(1)


if __name__ == "__main__":
    main()
