"""Signals that end a run: all of them as Ctrl-C does, cleanly, with everything finished stored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM (batch systems, ``kill``) and SIGHUP (a terminal that is closed) end the body as Ctrl-C does.

    A signal that is ignored, as SIGHUP is under ``nohup``, stays ignored. In a thread that is not the main one nothing
    is changed: the launcher that started it owns the signals.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = {number: handler for number, handler in old.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in taken:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
