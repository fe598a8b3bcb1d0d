"""The whole measurement; see README.md. Started by run.sh, which makes PyTorch available."""

import argparse
import json
import sys
import time
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

# The share of the processor that others take, from which figures mean nothing.
BUSY = 0.1


def others():
    """The share of the processor in use while nothing of ours runs, over two seconds; 0 where the system does not tell."""

    def ticks():
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        before = ticks()
        time.sleep(2)
        after = ticks()
    except (OSError, ValueError, IndexError):
        return 0.0
    passed = after[0] - before[0]
    return round(1 - (after[1] - before[1]) / passed, 2) if passed else 0.0


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
    bench, rows, busy = Bench(args), [], []
    for part in args.part or PARTS:
        note(part)
        busy.append(others())
        for row in PARTS[part](bench):
            extra = {"busy_before": busy[-1]} | ({"quick": True} if bench.quick else {})
            print(json.dumps({"part": part} | row | extra), flush=True)
            rows.append(row)
    remarks = ["quick: no figures to keep"] if bench.quick else []
    if max(busy) > BUSY:
        # Threads that wait for each other suffer more than others from a busy machine: ratios do not hold either.
        remarks.append(f"the machine was BUSY ({100 * max(busy):.0f}% in use before a part): no figures to keep")
    text = f"{'; '.join([f'{date.today()}, {machine()}', *remarks])}\n\n{table(rows)}\n"
    print("\n" + text)
    if args.table:
        args.table.write_text(text, encoding="utf-8")
    missing = [row["name"] for row in rows if row["ours"] is None]
    if missing:
        note(f"{len(missing)} of {len(rows)} rows lack our figure: {', '.join(missing[:5])}")
        sys.exit(1)


if __name__ == "__main__":
    main()
