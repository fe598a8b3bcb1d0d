"""Each step of the pipeline alone: megabytes of text in a second of processor time, beyond a pipeline without steps."""

import json
import resource
import subprocess
from pathlib import Path

from common import ROOT, Failed, call, note, row, told

NEEDS = ["zstandard"]
STEPS = [
    "normalize", "boilerplate_lines", "language", "kind", "gopher_quality", "gopher_repetition", "c4", "fineweb", "privacy",
    "exact_duplicates", "near_duplicates", "line_duplicates", "paragraph_duplicates", "substring_duplicates",
]


def corpus(bench):
    """The documents of `dedup/` three times, with other words reversed each time, so that few are copies."""
    import zstandard

    path = bench.file("steps.jsonl")
    with open(bench.data / "dedup" / "docs.jsonl.zst", "rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    lines = lines[: bench.pick(len(lines), 500)]
    with open(path, "w", encoding="utf-8") as out:
        for turn in range(3):
            for line in lines:
                words = json.loads(line)["text"].split(" ")
                if turn:
                    words = [word if (i * 7 + turn) % 3 else word[::-1] for i, word in enumerate(words)]
                out.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def program():
    done = subprocess.run(["cargo", "build", "--release"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"cupola does not build: {told(done.stderr)}")
    metadata = json.loads(call(["cargo", "metadata", "--format-version", "1", "--no-deps"]))
    return Path(metadata["target_directory"]) / "release" / "cupola"


def seconds(binary, bench, source, steps, number):
    """Processor seconds of a run."""
    folder = bench.file(f"steps-{number}")
    folder.mkdir()
    recipe = f'name = "r"\n[data.c]\nsources = ["{source}"]\nvalidation_fraction = 0.001\nsteps = {json.dumps(steps)}\n'
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([binary, "data", "recipe.toml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Failed(f"{steps}: {told(done.stderr)}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(bench):
    from statistics import median

    source, binary, number = corpus(bench), program(), iter(range(10_000))
    size = source.stat().st_size / 1e6
    taken = {}
    for _ in range(bench.rounds):
        for steps in [[]] + [[step] for step in STEPS]:
            taken.setdefault(" ".join(steps), []).append(seconds(binary, bench, source, steps, next(number)))
    bare = median(taken.pop(""))
    yield row("reading and writing", "MB/CPU-s", size / bare)
    for step, times in taken.items():
        beyond = median(times) - bare
        if beyond < 0.02 * bare:
            note(f"{step}: too little to measure")
        yield row(step, "MB/CPU-s", size / max(beyond, 0.02 * bare))
