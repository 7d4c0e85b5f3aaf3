"""Hill climbing: what costs most is changed a little, and kept where it then costs more."""

from __future__ import annotations

import random

from tests.costs.genes import Genes, changed, known_worst
from tests.costs.measure import Cost, cost_of

KEPT = 24


class Search:
    """A population of the most expensive messages so far, by CPU and by memory."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._untried = known_worst()
        self._found: dict[Genes, Cost] = {}
        self.tried = 0

    def run_once(self) -> Cost:
        """Try one message more; returns what it costs."""
        genes = self._untried.pop() if self._untried else self._next()
        cost = self._found[genes] = cost_of(genes.message())
        self.tried += 1
        self._keep()
        return cost

    def worst(self, count: int) -> list[tuple[Genes, Cost]]:
        ranked = sorted(self._found.items(), key=lambda found: -found[1].worst)
        return ranked[:count]

    def _next(self) -> Genes:
        if self._rng.random() < 0.1:
            return changed(Genes(), self._rng)
        while (genes := changed(self._rng.choice(list(self._found)), self._rng)) in self._found:
            pass
        return genes

    def _keep(self) -> None:
        """The dearest by each measure: what is dear in memory may lead to what is dear in CPU."""
        by_cpu = sorted(self._found.items(), key=lambda found: -found[1].cpu)
        by_memory = sorted(self._found.items(), key=lambda found: -found[1].memory)
        self._found = dict(by_cpu[:KEPT] + by_memory[:KEPT])
