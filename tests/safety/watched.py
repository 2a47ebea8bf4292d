"""Runs commands in a process that notes what they do to the world; a script of its own, for the tests beside it.

``python watched.py NOTES ONLINE FOLDER... -- COMMAND`` where COMMAND is JSON: a list of argument lists, each with the
name of the program first. Every attempt to reach another machine is noted and refused, and so noted are programs that
are started, pickles that are read, and files outside the folders that are opened for writing, moved or removed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "webbrowser.open")
MOVED = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Watch:
    """The hook: notes what matters, one JSON line each."""

    def __init__(self, notes: str, folders: list[str]) -> None:
        self.stream = open(notes, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        self.folders = tuple(os.path.realpath(folder) for folder in folders)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in NETWORK and not self.is_local(args):
            self.note(event, args[1:] if event == "socket.connect" else args)
            raise ConnectionError("no network in this test")
        if event in STARTED or event == "pickle.find_class":
            self.note(event, args)
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING:
            self.check(event, args[0])
        if event in MOVED:
            for path in args[:2]:
                self.check(event, path)

    def is_local(self, args: tuple[Any, ...]) -> bool:
        return isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX

    def check(self, event: str, path: object) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor, or a file mode
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith(("/dev/", f"/proc/{os.getpid()}/")) and not any(
            os.path.commonpath([real, folder]) == folder for folder in self.folders
        ):
            self.note(event, (real,))

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        self.stream.write(json.dumps([event, [repr(arg)[:200] for arg in args]]) + "\n")


def main(notes: str, *rest: str) -> int:
    """Run the commands one after the other; the exit code tells what the last one returned."""
    folders, commands = rest[: rest.index("--")], json.loads(rest[-1])
    sys.addaudithook(Watch(notes, list(folders)))
    code = 0
    for program, *arguments in commands:
        sys.argv = [program, *arguments]
        if program == "ke-run":
            from ke_cli.run import run

            try:
                code = run(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
        else:
            from ke_cli.summarize import main as summarize

            code = summarize(arguments)
        print(f"== {program} ended with {code}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
