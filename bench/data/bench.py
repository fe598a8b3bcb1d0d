"""What the parts share beside bench/train/common.py: programs of ours, peers, what pip installs, taking turns."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, Failed, call, figures, median, note, told

HERE = ROOT / "bench" / "data"


class Bench:
    """The choices of this measurement."""

    def __init__(self, args):
        self.quick = args.quick
        self.rounds = args.rounds or (1 if args.quick else 3)
        self.given = args.data or os.environ.get("CUPOLA_DATA")
        # For files that sides read; gone when the measurement ends.
        self.work = tempfile.TemporaryDirectory(prefix="cupola-bench-")
        self.built = {}

    @property
    def data(self):
        """The folder of the test material."""
        if not self.given:
            raise Failed("the test material is missing: give its folder with --data or CUPOLA_DATA")
        return Path(self.given)

    def pick(self, full, quick):
        return quick if self.quick else full

    def file(self, name):
        """A path for a file of this measurement."""
        return Path(self.work.name) / name

    def example(self, name, package="cupola-data", *options):
        """Builds an example program in release mode; gives its path."""
        if name not in self.built:
            command = ["cargo", "build", "--release", "-p", package, "--example", name, *options]
            note("building " + name)
            done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
            told_by_cargo = call(["cargo", "metadata", "--format-version", "1", "--no-deps"])
            path = Path(json.loads(told_by_cargo)["target_directory"]) / "release" / "examples" / name
            self.built[name] = path if done.returncode == 0 else Failed(f"{name} does not build: {told(done.stderr)}")
        if isinstance(self.built[name], Failed):
            raise self.built[name]
        return str(self.built[name])

    def turns(self, sides):
        """Runs the sides alternately for some rounds. `sides` has commands by name, each of which prints JSON lines with `name`
        and `value`. Gives the medians by side and name, and who failed why."""
        lines, failed = {}, {}
        for _ in range(self.rounds):
            for side, command in sides.items():
                if side in failed:
                    continue
                try:
                    for line in figures(command() if callable(command) else command):
                        lines.setdefault(side, {}).setdefault(line["name"], []).append(line["value"])
                except Failed as why:
                    failed[side] = str(why)
                    note(f"{side}: {why}")
        return {side: {name: median(all_of_it) for name, all_of_it in names.items()} for side, names in lines.items()}, failed


def peer(script, *args):
    """The command of a peer's script in this folder."""
    return [sys.executable, HERE / script, *args]


def install(needs):
    """Installs what is not there in the wanted version, e.g. `rensa==0.5.0`."""
    missing = [need for need in needs if not there(need)]
    if missing:
        note("installing " + " ".join(missing))
        call([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *missing])


def there(need):
    name, _, version = re.sub(r"\[.*?\]", "", need).partition("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return not version or found == version
