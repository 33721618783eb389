"""Another order of the steps, in which large maps are needed for a shorter time.

Where two steps could run next, the file's order is that of the layers in the model. Here a step
that frees more memory than it takes runs as early as it can: the pooling of a shortcut before the
convolutions beside it, whose bits are 32 times smaller than the map that the pooling frees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from larq_ensemble.convert.targets.c.plan import Map, Step


def scheduled(steps: Sequence[Step], result: Map) -> list[Step]:
    """The steps in another order, each after those whose maps it reads.

    # Arguments
        steps: in any order of that kind.
        result: the map that is needed in the end.
    """
    readers = Counter(map for step in steps for map in set(step.reads))
    readers[result] += 1
    writers = Counter(map for step in steps for map in set(step.writes))
    # Members need what `begin` computes for them again and again.
    kept = {map for step in steps if not step.shared for map in step.reads if map.shared}
    left, order = list(steps), list[Step]()

    def growth(step: Step) -> int:
        freed = {map for map in step.reads if readers[map] == 1 and map not in kept}
        return sum(map.bytes for map in set(step.writes)) - sum(map.bytes for map in freed)

    while left:
        ready = [step for step in left if not any(writers[map] for map in step.reads)]
        step = min(ready, key=lambda step: min(growth(step), 0))
        left.remove(step)
        order.append(step)
        readers.subtract(set(step.reads))
        writers.subtract(set(step.writes))
    return order
