"""Replicas in one process that give each other tensors in the middle of a tick, as those of several processes do."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Lockstep:
    """Runs a function of each replica, in turns: each until it has something for the others, or ends."""

    def __init__(self, replicas: int) -> None:
        """`replicas`: how many there are."""
        self._count = replicas
        self._turns = [threading.Semaphore(0) for _ in range(replicas)]
        self._given: list[list[Tensor | None]] = []  # the last two gatherings: one may still be read during the next
        self._gathered = [0] * replicas
        self._error: BaseException | None = None

    def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        """Run them all, each in a thread of its own, and return what they return. Raises the first one's error."""
        self._given = [[None] * self._count for _ in range(2)]
        results: list[T] = []
        cores = torch.get_num_threads()  # which each of the threads would choose anew
        threads = [
            threading.Thread(
                target=self._take_part, args=(replica, function, results, cores), name=f"replica {replica}"
            )
            for replica, function in enumerate(functions)
        ]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        for thread in threads:
            thread.join()
        self._turns[0].acquire(blocking=False)  # that of the last one to end
        if self._error is not None:
            raise self._error
        return results

    def _take_part(self, replica: int, function: Callable[[], T], results: list[T], cores: int) -> None:
        self._turns[replica].acquire()
        torch.set_num_threads(cores)
        try:
            if self._error is None:
                results.append(function())
        except BaseException as error:  # raised by `run`
            self._error = self._error or error
        self._pass_on(replica)

    def _pass_on(self, replica: int) -> None:
        for turn in self._turns if self._error else [self._turns[(replica + 1) % self._count]]:
            turn.release()

    def gather(self, replica: int, own: Tensor) -> list[Tensor]:
        """Give the others a tensor, and get those of all, in their order. The random state stays this replica's."""
        given, state = self._given[self._gathered[replica] % 2], torch.get_rng_state()
        self._gathered[replica] += 1
        given[replica] = own
        self._pass_on(replica)
        self._turns[replica].acquire()
        torch.set_rng_state(state)
        if self._error is not None:
            raise RuntimeError("another replica has failed")
        return [part for part in given if part is not None]
