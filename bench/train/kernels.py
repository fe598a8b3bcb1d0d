"""Single kernels: ours, the crate `gemm` and PyTorch beside what the machine reaches."""

from common import Failed, figures, median, note, python, row


def rows(bench):
    """Some rounds of our program (which runs `gemm` too) and PyTorch's, in turn."""
    seconds = bench.pick("0.3", "0.05")
    sides = {
        "cupola": lambda: [bench.program("--example", "bench_kernels", "--features", "cupola-kernels/gemm"), seconds],
        "torch": lambda: python("peer_kernels.py", seconds),
    }
    lines, failed = [], {}
    for _ in range(bench.rounds):
        for side, command in sides.items():
            if side in failed:
                continue
            try:
                lines.extend(figures(command()))
            except Failed as why:
                failed[side] = str(why)
                note(f"{side}: {why}")
    # A dictionary keeps the order in which rows first came.
    for name, precision in dict.fromkeys((line["name"], line["precision"]) for line in lines):
        yield one(name, precision, [line for line in lines if (line["name"], line["precision"]) == (name, precision)], failed)


def one(name, precision, lines, failed):
    values = {}
    for line in lines:
        values.setdefault(line["who"], []).append(line["value"])
    values = {who: median(all_of_it) for who, all_of_it in values.items()}
    ours = values.pop("cupola", None)
    best = max(values, key=values.get) if values else None
    limit = median([line["limit"] for line in lines if "limit" in line])
    return row(
        f"{name}, {precision}", lines[0]["unit"], ours, values.get(best), limit, best_peer=best, peers=values, failed=failed,
        simd=next((line["simd"] for line in lines if "simd" in line), None),
    )
