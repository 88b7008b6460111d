"""Compare the synchroniser with the stock algorithm: python benchmarks/sync.py [--seeds 5].

Six cameras, 60 s at 12 Hz where nothing else is said. Of every scenario: the share of trigger
cycles of which at least four images arrived (possible), and of which a set was delivered that
mixes no cycles; the number of mixed sets; and the cost of a push. CameraInfo is left out on both
sides, in favour of the stock algorithm: its loss costs ours nothing and the stock one a set.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bev_perception.sync import SyncConfig, ViewSynchronizer
from test.rig_streams import CAMERAS, PAIR_S, RING_S, Push, Scenario, stream

JITTER_S = 0.010
DEAD = {'back': range(6, 10**9)}
S = Scenario
SCENARIOS: dict[str, tuple[Scenario, dict[str, Any]]] = {
    'ideal': (S(), {}),
    'jitter ±10 ms (j)': (S(jitter_s=JITTER_S), {}),
    'j, 5 % loss': (S(jitter_s=JITTER_S, loss=0.05), {}),
    'j, one camera dead': (S(jitter_s=JITTER_S, dead=DEAD), {}),
    'j, 0-120 ms transport': (S(jitter_s=JITTER_S, delay_s=0.12), {}),
    'two cameras +40 ms': (S(offsets_s=PAIR_S), {'offsets_s': PAIR_S}),
    'two cameras +40 ms, j': (S(offsets_s=PAIR_S, jitter_s=JITTER_S), {'offsets_s': PAIR_S}),
    'same, no offsets, spread 65 ms': (
        S(offsets_s=PAIR_S, jitter_s=JITTER_S),
        {'max_spread_s': 0.065},
    ),
    'ring of 43 ms, ±2 ms': (S(offsets_s=RING_S, jitter_s=0.002), {}),
    'ring, j': (S(offsets_s=RING_S, jitter_s=JITTER_S), {}),
    'ring, j, offsets': (S(offsets_s=RING_S, jitter_s=JITTER_S), {'offsets_s': RING_S}),
    'ring, j, spread 65 ms': (
        S(offsets_s=RING_S, jitter_s=JITTER_S),
        {'max_spread_s': 0.065},
    ),
    'bag played twice, 5 % loss, j': (S(jitter_s=JITTER_S, loss=0.05, passes=2), {}),
    'j, 5 % loss, spread 100 ms': (S(jitter_s=JITTER_S, loss=0.05), {'max_spread_s': 0.1}),
    'j, 5 % loss, spread 200 ms': (S(jitter_s=JITTER_S, loss=0.05), {'max_spread_s': 0.2}),
    '20 Hz, j, 0-120 ms transport': (S(rate_hz=20, jitter_s=JITTER_S, delay_s=0.12), {}),
    '30 Hz, j, 5 % loss': (S(rate_hz=30, jitter_s=JITTER_S, loss=0.05), {}),
    'dead, 5 % loss, j, ring': (
        S(jitter_s=JITTER_S, loss=0.05, dead=DEAD, offsets_s=RING_S),
        {'max_spread_s': 0.065},
    ),
    'same, 0-120 ms transport': (
        S(jitter_s=JITTER_S, loss=0.05, dead=DEAD, offsets_s=RING_S, delay_s=0.12),
        {'max_spread_s': 0.065},
    ),
    'camera at half rate, j': (S(jitter_s=JITTER_S, every={'back': 2}), {}),
}


class StockSynchronizer:
    """What message_filters' ApproximateTimeSynchronizer does, stated again in few lines.

    Known offsets are subtracted here, as its users would have to do themselves.
    """

    def __init__(self, slop_s: float, offsets_s: dict[str, float], queue_size: int = 10) -> None:
        self.slop_ns = round(slop_s * 1e9)
        self.offsets_ns = {c: round(offsets_s.get(c, 0) * 1e9) for c in CAMERAS}
        self.queue_size = queue_size
        self.queues: dict[str, dict[int, int]] = {camera: {} for camera in CAMERAS}

    def push(self, camera: str, stamp_ns: int, item: int) -> list[list[int]]:
        """Return at most one set: the first combination that fits, of every camera."""
        at_ns = stamp_ns - self.offsets_ns[camera]
        queue = self.queues[camera]
        queue[at_ns] = item
        if len(queue) > self.queue_size:
            del queue[min(queue)]
        near = []
        for other in CAMERAS:
            stamps = [at_ns] if other == camera else list(self.queues[other])
            stamps = [s for s in stamps if abs(s - at_ns) <= self.slop_ns]
            if not stamps:
                return []
            near.append(sorted(stamps, key=lambda s: abs(s - at_ns)))
        for chosen in itertools.product(*near):
            if max(chosen) - min(chosen) < self.slop_ns:
                pairs = zip(CAMERAS, chosen, strict=True)
                return [[self.queues[c].pop(s) for c, s in pairs if s in self.queues[c]]]
        return []


@dataclass(frozen=True, kw_only=True)
class Row:
    """Totals over all seeds."""

    cycles: int
    possible: int  # cycles of which at least four images arrived
    delivered: int  # cycles with a set that is not mixed
    mixed: int  # sets of more than one cycle
    complete: int  # sets of all six cameras that are not mixed
    push_us: float


def measure(
    make: Callable[[], Callable[[Push], list[list[int]]]], scenario: Scenario, seeds: int
) -> Row:
    cycles = possible = delivered = mixed = complete = pushed = 0
    seconds = 0.0
    for seed in range(seeds):
        pushes, push = stream(scenario, seed), make()
        start = time.process_time()
        sets = [s for p in pushes for s in push(p)]
        seconds += time.process_time() - start
        pure = [s for s in sets if len(set(s)) == 1]
        cycles += scenario.cycles * scenario.passes
        possible += sum(n >= 4 for n in Counter(p.cycle for p in pushes).values())
        delivered += len({s[0] for s in pure})
        mixed += len(sets) - len(pure)
        complete += sum(len(s) == len(CAMERAS) for s in pure)
        pushed += len(pushes)
    return Row(
        cycles=cycles,
        possible=possible,
        delivered=delivered,
        mixed=mixed,
        complete=complete,
        push_us=round(seconds / pushed * 1e6, 1),
    )


def ours(settings: dict[str, Any]) -> Callable[[Push], list[list[int]]]:
    sync: ViewSynchronizer[int] = ViewSynchronizer(
        SyncConfig(cameras=CAMERAS, min_cameras=4, **settings)
    )
    return lambda p: [
        [cycle for _, cycle in s.items.values()] for s in sync.push(p.camera, p.stamp_ns, p.cycle)
    ]


def stock(settings: dict[str, Any]) -> Callable[[Push], list[list[int]]]:
    sync = StockSynchronizer(settings.get('max_spread_s', 0.05), settings.get('offsets_s', {}))
    return lambda p: sync.push(p.camera, p.stamp_ns, p.cycle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--json', action='store_true', help='machine-readable results')
    args = parser.parse_args()
    rows = {}
    for name, (scenario, settings) in SCENARIOS.items():
        rows[name] = {
            'ours': measure(lambda s=settings: ours(s), scenario, args.seeds),
            'stock': measure(lambda s=settings: stock(s), scenario, args.seeds),
        }
    if args.json:
        print(json.dumps({n: {k: asdict(r) for k, r in row.items()} for n, row in rows.items()}))
        return
    print(
        '| scenario | possible | delivered: ours | stock | complete: ours | stock '
        '| mixed: ours | stock |'
    )
    print('|---|---|---|---|---|---|---|---|')
    for name, row in rows.items():
        a, b = row['ours'], row['stock']
        cells = [f'{n / a.cycles:.1%}' for n in (a.possible, a.delivered, b.delivered)]
        cells += [f'{r.complete / r.cycles:.1%}' for r in (a, b)]
        print(f'| {name} | {" | ".join(cells)} | {a.mixed} | {b.mixed} |')
    for kind in ('ours', 'stock'):
        costs = sorted(row[kind].push_us for row in rows.values())
        print(f'\n{kind}: {costs[0]} to {costs[-1]} us per push')


if __name__ == '__main__':
    main()
