"""What work prints, for operators who watch it: the newest of it, whether somebody watches or not."""

from __future__ import annotations

import threading
from typing import Optional

#: How much is kept of what one task printed, in bytes: one who begins to watch sees that.
KEPT = 64 << 10
#: How long it counts that the server said that somebody watches, in seconds.
WATCHED = 10.0

#: How many bytes were printed before a part of it, and the part.
Piece = tuple[int, bytes]


class Printed:
    """What one task printed. Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = bytearray()
        self._total = 0
        self._taken = 0
        self._watched_until = 0.0

    def push(self, printed: bytes, now: float) -> bool:
        """Adds to it. True: somebody watches."""
        with self._lock:
            self._total += len(printed)
            self._newest += printed[-KEPT:]
            del self._newest[:-KEPT]
            return now < self._watched_until

    def watch(self, anew: bool, now: float) -> None:
        """Somebody watches for some time; `anew`: one who has seen nothing of it."""
        with self._lock:
            if anew or now >= self._watched_until:
                self._taken = 0
            self._watched_until = now + WATCHED

    def unwatch(self) -> None:
        """Nobody can hear of it now."""
        with self._lock:
            self._watched_until = 0.0

    def take(self, now: float) -> Optional[Piece]:
        """What is kept of it and was not taken, if there is some, and somebody watches."""
        with self._lock:
            if self._taken == self._total or now >= self._watched_until:
                return None
            kept_from = self._total - len(self._newest)
            begin = max(self._taken, kept_from)
            self._taken = self._total
            return begin, bytes(self._newest[begin - kept_from :])


def joined(older: Optional[Piece], newer: Piece) -> Piece:
    """Both; where some is missing between them, the newer one."""
    if older is None or older[0] + len(older[1]) != newer[0]:
        return newer
    both = older[1] + newer[1]
    too_many = max(0, len(both) - KEPT)
    return older[0] + too_many, both[too_many:]
