"""How long ``bisect`` takes, and whether it names what was planted: seconds, trials, nodes named, by model size.

python -m benchmarks.bisect [NODES ...]
"""

from __future__ import annotations

import sys
import time

from benchmarks.planted import FAULTS, planted

DEFAULT_SIZES = (100, 300, 1000)
SEEDS = range(5)


def measure(nodes: int, inside: bool) -> str:
    """One row: each fault alone and all together, five seeds each; the slowest search counts."""
    import onnx_fp16fix

    slowest, longest, named, asked, trials = 0.0, 0.0, 0, 0, 0
    for seed in SEEDS:
        for faults in (*((fault,) for fault in FAULTS), FAULTS):
            plant = planted(nodes, faults, seed, inside=inside)
            started, worked = time.perf_counter(), time.process_time()
            entry = onnx_fp16fix.bisect(plant.model, plant.data).run.bisect
            slowest = max(slowest, time.perf_counter() - started)
            longest = max(longest, time.process_time() - worked)
            assert entry is not None
            named += len(set(plant.culprits.values()) & set(entry.fp32_nodes))
            asked += len(faults)
            trials = max(trials, entry.trials)
    where = "in a Loop" if inside else "         "
    return (
        f"{nodes:>6,} nodes {where}  slowest {slowest:6.1f} s ({longest:.1f} s of CPU)  most sets {trials:4}  "
        f"culprits named {named} of {asked}"
    )


def main(sizes: list[str]) -> None:
    for size in sizes or DEFAULT_SIZES:
        for inside in (False, True):
            print(measure(int(size), inside), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
