"""Training steps: ours beside the modes of `peer.py`, in turn, and their memory."""

from common import Failed, figures, median, note, python, row

MODES = ["eager-f32", "compile-f32", "eager-bf16", "compile-bf16"]
F32 = MODES[:2]

# the row, its case, our precision, further options, the peer's modes
ROWS = [
    ("step S", "S", "auto", [], MODES),
    ("step M", "M", "auto", [], MODES),
    ("step L", "L", "auto", [], MODES),
    ("forward S", "S", "auto", ["--forward"], MODES),
    ("step S, f32", "S", "f32", [], F32),
    ("step M, f32", "M", "f32", [], F32),
]
# steps of a run: a full measurement, a quick one
STEPS = {"S": (20, 3), "M": (4, 1), "L": (4, 1)}
# tokens in a row, for memory alone
LENGTHS = [4096, 8192, 16384, 32768]


def rows(bench):
    for name, case, precision, options, modes in ROWS:
        if not bench.cases or case in bench.cases:
            yield from compare(bench, name, case, precision, options, modes)
    if not bench.cases or "L" in bench.cases:
        yield from by_length(bench)


def program(bench):
    return bench.step_program or bench.program("--example", "bench_step")


def compare(bench, name, case, precision, options, modes):
    """Ours after each of the peer's modes, some rounds of that."""
    options = ["--steps", bench.pick(*STEPS[case]), *options]
    ours, peers, failed = [], {mode: [] for mode in modes}, {}
    for _ in range(bench.rounds):
        for mode in modes:
            run(peers[mode], mode, failed, lambda: python("peer.py", case, mode, *options))
            run(ours, "cupola", failed, lambda: [program(bench), case, precision, *options])
    speeds = {mode: middle(lines, "tokens_per_second") for mode, lines in peers.items() if lines}
    best = max(speeds, key=speeds.get) if speeds else None
    who = peers[best][0]["who"] if best else None
    peak, flops = middle(ours, "peak_flops"), middle(ours, "flops_per_token")
    size, theirs = middle(ours, "parameters"), middle(peers[best], "parameters") if best else None
    unlike = f"NOT the same model: {size:,.0f} parameters, the peer's {theirs:,.0f}" if size and theirs and size != theirs else None
    yield row(
        name, "tokens/s", middle(ours, "tokens_per_second"), speeds.get(best), peak / flops if peak and flops else None,
        remark=unlike, best_peer=who, peers=speeds, runs_of_ours=len(ours), failed=failed, steps=options[1],
        who=ours[0]["who"] if ours else None, parameters=size, peer_parameters=theirs,
    )
    memory = {mode: middle(lines, "peak_memory") / 1e6 for mode, lines in peers.items() if lines}
    least = min(memory, key=memory.get) if memory else None
    held = middle(ours, "peak_memory")
    who = peers[least][0]["who"] if least else None
    yield row(f"{name}: memory", "MB", held and held / 1e6, memory.get(least), less=True, best_peer=who, peers=memory)


def run(into, who, failed, command):
    """Adds the figures of a run; what has failed once is not tried again."""
    if who in failed:
        return
    try:
        into.extend(figures(command()))
    except Failed as why:
        failed[who] = str(why)
        note(f"{who}: {why}")


def middle(lines, key):
    return median([line[key] for line in lines if line.get(key) is not None])


def by_length(bench):
    """Memory of one step of L over longer rows: linear means that each token costs the same."""
    held, failed = {}, {}
    for length in LENGTHS[: bench.pick(len(LENGTHS), 2)]:
        lines = []
        run(lines, "cupola", failed, lambda: [program(bench), "L", "auto", "--steps", "1", "--seq", length])
        if lines:
            held[length] = middle(lines, "peak_memory") / 1e6
            yield row(f"memory of L, {length} tokens in a row", "MB", held[length], less=True)
    lengths = sorted(held)
    costs = [1e3 * (held[b] - held[a]) / (b - a) for a, b in zip(lengths, lengths[1:])]
    if failed or len(costs) > 1:
        growth = costs[-1] / costs[0] if len(costs) > 1 and costs[0] > 0 else None
        remark = "kB per further token: " + ", ".join(f"{c:.1f}" for c in costs)
        # Attention with the whole T x T matrix would take four times as much from one pair to the next.
        yield row("memory of L, growth per token, last / first", "", growth, None, 1.25, less=True, remark=remark, failed=failed)
