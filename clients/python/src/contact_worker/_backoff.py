"""How long to wait before the next try."""

from __future__ import annotations

import random
from typing import Optional


class Backoff:
    """Exponential backoff with full jitter, in seconds: from zero to `first`, doubled with each try, at most `most`."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._tries = 0

    def next(self, asked: Optional[float] = None) -> float:
        """The wait before the next try; on top of what a server asked for, as many may have been asked for the same.

        A wait beyond `most` is drawn from the upper half of that, so that not all come at one moment.
        """
        longest = min(self._first * 2 ** min(self._tries, 60), self._most)
        self._tries += 1
        wait = random.uniform(0, longest) + (asked or 0)
        return wait if wait <= self._most else random.uniform(self._most / 2, self._most)

    def reset(self) -> None:
        """A try worked."""
        self._tries = 0
