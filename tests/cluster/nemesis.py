"""Kills and restarts brokers at random, by a seed."""

from __future__ import annotations

import random
import threading

from tests.cluster.brokers import NODES, Brokers


class Nemesis(threading.Thread):
    """Until it is told to stop: kills one broker, now and then two, and starts them again a little later.

    It does not wait until they are up, so that some are killed while they recover.
    """

    def __init__(self, brokers: Brokers, seed: int) -> None:
        super().__init__(name=f"nemesis-{seed}", daemon=True)
        self.brokers, self.chance, self.stopped = brokers, random.Random(seed), threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Kill and restart."""
        try:
            while not self.stopped.wait(self.chance.uniform(0.5, 5.0)):
                victims = self.chance.sample(NODES, 2 if self.chance.random() < 0.25 else 1)
                self.brokers.kill(*victims)
                self.stopped.wait(self.chance.uniform(0.2, 3.0))
                self.brokers.restart(*victims, wait=False)
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        """Stop after the restart; raises what the thread died of."""
        self.stopped.set()
        self.join(120)
        assert not self.is_alive(), "the nemesis does not end"
        if self.failure is not None:
            raise self.failure
