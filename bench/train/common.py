"""What the parts of the measurement share: building, running, rows and the table."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bench" / "train"


class Failed(Exception):
    """A program that could not be built or run; the text goes into the row."""


class Bench:
    """The choices of this measurement."""

    def __init__(self, args):
        self.quick = args.quick
        self.rounds = args.rounds or (1 if args.quick else 3)
        self.step_program = args.step_program
        self.cases = args.case
        self.built = {}

    def pick(self, full, quick):
        return quick if self.quick else full

    def program(self, kind, name, *options):
        """Builds a binary (`--bin`) or an example (`--example`) in release mode; gives its path."""
        if name not in self.built:
            # All of the workspace, so that its dependencies are compiled once with the same features.
            command = ["cargo", "build", "--release", "--workspace", kind, name, *options]
            note("building " + name)
            done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
            target = Path(self.metadata()["target_directory"]) / "release"
            path = target / name if kind == "--bin" else target / "examples" / name
            self.built[name] = path if done.returncode == 0 else Failed(f"{name} does not build: {told(done.stderr)}")
        if isinstance(self.built[name], Failed):
            raise self.built[name]
        return str(self.built[name])

    def metadata(self):
        command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
        return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def note(text):
    print("# " + text, file=sys.stderr, flush=True)


def told(stderr):
    """The line of an error output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors[:1] or lines[-1:] or ["it said nothing"])[0][:300]


def call(command, timeout=3600):
    """What a program prints; `Failed` when it does not end well."""
    note(" ".join(str(word) for word in command))
    try:
        done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {timeout} s") from None
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Failed(told(done.stderr) if done.stderr.strip() else f"exit status {done.returncode}")
    return done.stdout


def figures(command, timeout=3600):
    """The JSON lines that a program prints, at least one."""
    lines = [line for line in call(command, timeout).splitlines() if line.startswith("{")]
    if not lines:
        raise Failed("it printed no figures")
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise Failed(f"not JSON: {lines[-1][:200]}") from None


def python(script, *args):
    return [sys.executable, HERE / script, *args]


def median(values):
    return statistics.median(values) if values else None


def row(name, unit, ours=None, peer=None, limit=None, less=False, **more):
    """A row; `ratio` is ours / peer and `share_of_limit` ours / limit. With `less` a smaller figure is the better one."""
    share = lambda other: rounded(ours / other) if ours is not None and other else None
    fixed = dict(name=name, ours=rounded(ours), peer=rounded(peer), ratio=share(peer), limit=rounded(limit))
    better = "less" if less else "more"
    return fixed | dict(share_of_limit=share(limit), unit=unit, better=better) | more


def rounded(x):
    """Four digits that count."""
    return x if x is None or isinstance(x, bool) else float(f"{x:.4g}")


def shown(x):
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def machine():
    """The processor, and how many of its cores may be used."""
    name = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def table(rows):
    """The rows in markdown."""
    out = ["| row | ours | peer | ours / peer | limit | share of the limit | unit | |", "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        share = "" if r["share_of_limit"] is None else f"{100 * r['share_of_limit']:.0f}%"
        remark = "; ".join([r[key] for key in ("remark", "best_peer") if r.get(key)])
        failures = "; ".join(f"{who}: {why}" for who, why in r.get("failed", {}).items())
        remark = "; ".join(text for text in (remark, failures) if text).replace("|", "/")
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        cells = [r["name"], shown(r["ours"]), shown(r["peer"]), ratio, shown(r["limit"]), share, r["unit"], remark]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)
