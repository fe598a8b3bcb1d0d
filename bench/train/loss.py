"""The time to a loss, against nanoGPT's CPU setting, and whether short numbers learn like long ones."""

import json
import tempfile
from pathlib import Path

from common import HERE, ROOT, Failed, call, figures, median, note, python, row

TEXT = ROOT / "recipes" / "quickstart" / "data" / "tinyshakespeare.txt"
QUICKSTART = ROOT / "recipes" / "quickstart" / "recipe.toml"
# bits per byte, and the seconds it may take
GOAL, GOAL_SECONDS = 2.40, 240
# times as fast as the peer
FASTER = 3
# steps of the curves, steps of a mean, and how far apart two curves may be
STEPS, SMOOTH, APART = 500, 25, 0.01
STEP_TOKENS = 2048


def train(bench, recipe, *settings):
    """Runs a recipe up to its model; the lines of its metrics and the seconds that its tokenizer took."""
    cupola = bench.program("--bin", "cupola")
    changes = [word for setting in settings for word in ("--set", "pretrain.base." + setting)]
    with tempfile.TemporaryDirectory(prefix="cupola-bench-") as out:
        for stage in ("corpus", "bpe", "base"):
            call([cupola, "run", recipe, "--only", stage, "--out", out, *changes])
        lines = (Path(out) / "pretrain.base" / "metrics.jsonl").read_text().splitlines()
        manifest = json.loads((Path(out) / "tokenizer.bpe" / "manifest.json").read_text())
    return [json.loads(line) for line in lines], manifest["report"]["metrics"]["seconds"]


def time_to_loss(bench):
    """Rows of the seconds until the peer's last loss, and until a loss of its own."""
    steps = bench.pick(2000, 100)
    changes = bench.pick([], ["tokens=40000", "evaluations=3"])
    peers, ours, failed = {"eager": [], "compile": []}, [], {}
    for _ in range(min(bench.rounds, 2)):
        for mode, runs in peers.items():
            options = ["--compile"] if mode == "compile" else []
            attempt(runs, mode, failed, lambda: figures(python("peer_char.py", TEXT, "--steps", steps, *options))[0])
            attempt(ours, "cupola", failed, lambda: curve(*train(bench, HERE / "time_to_loss.toml", *changes)))
    seconds = {mode: median([run["seconds"] for run in runs]) for mode, runs in peers.items() if runs}
    best = min(seconds, key=seconds.get) if seconds else None
    if best:
        goal = peers[best][0]["bits_per_byte"]
        taken = until(ours, goal)
        faster = round(seconds[best] / taken, 2) if taken else None
        remark = f"{faster} times as fast; wanted: {FASTER}" if faster else never(ours, goal)
        yield row(
            f"time to {goal:.3f} bits per byte", "s", taken, seconds[best], seconds[best] / FASTER, less=True, faster=faster,
            remark=remark, best_peer=peers[best][0]["who"], peers=seconds, failed=failed, peer_curve=peers[best][0]["curve"],
        )
    taken = until(ours, GOAL)
    yield row(
        f"time to {GOAL:.2f} bits per byte", "s", taken, limit=GOAL_SECONDS, less=True, failed=failed,
        remark=None if taken else never(ours, GOAL), curve=ours[0] if ours else [],
    )


def attempt(into, who, failed, work):
    if who in failed:
        return
    try:
        into.append(work())
    except (Failed, OSError, KeyError) as why:
        failed[who] = str(why)
        note(f"{who}: {why}")


def curve(lines, tokenizer_seconds):
    """Seconds and bits per byte of each evaluation; making the tokenizer counts."""
    points = [line for line in lines if "bits_per_byte" in line]
    return [[round(line["seconds"] + tokenizer_seconds, 3), round(line["bits_per_byte"], 4)] for line in points]


def until(curves, goal):
    """The median of the seconds at the first evaluation that is as good as the goal, when all runs get there."""
    reached = [next((seconds for seconds, bits in points if bits <= goal), None) for points in curves]
    return median(reached) if reached and None not in reached else None


def never(curves, goal):
    least = [min(bits for _, bits in points) for points in curves if points]
    return f"never at {goal:.3f}; the least was {min(least):.3f}" if least else None


def short_numbers(bench):
    """Rows of the largest distance between the smoothed losses of a short precision and of f32."""
    steps = bench.pick(STEPS, 60)
    settings = [f"tokens={steps * STEP_TOKENS}", f"batch_tokens={STEP_TOKENS}", "evaluations=0", "samples=0", "checkpoints=0"]
    losses, failed = {}, {}
    for precision in ("f32", "bf16", "f16"):
        try:
            lines, _ = train(bench, QUICKSTART, *settings, f'precision="{precision}"')
            losses[precision] = smooth([line["loss"] for line in lines if "loss" in line])
        except Failed as why:
            failed[precision] = str(why)
            note(f"{precision}: {why}")
    for precision in ("bf16", "f16"):
        apart = distance(losses[precision], losses["f32"]) if {precision, "f32"} <= losses.keys() else None
        name = f"{precision} against f32, largest distance of the loss"
        why = {who: failed[who] for who in ("f32", precision) if who in failed}
        remark = f"{steps} steps, means of {SMOOTH}"
        yield row(name, "%", apart and 100 * apart, limit=100 * APART, less=True, remark=remark, failed=why)


def smooth(losses):
    """Means of neighbouring steps, without the first."""
    return [sum(losses[i : i + SMOOTH]) / SMOOTH for i in range(SMOOTH, len(losses) - SMOOTH + 1)]


def distance(a, b):
    if len(a) != len(b):
        raise Failed(f"{len(a)} and {len(b)} steps")
    return max(abs(x - y) / y for x, y in zip(a, b))
