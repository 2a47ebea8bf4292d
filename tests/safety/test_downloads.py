"""Downloads by processes that are killed, that meet, and from servers that send anything: the right file or none."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ke_cli.data import download
from ke_cli.data.download import CHUNK_BYTES, fetch
from ke_cli.errors import UserError
from ke_cli.paths import cache_dir
from safety.hostile import is_calm, why_not_calm

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(5).randbytes(3 * CHUNK_BYTES + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHILD = """\
import os, signal, sys
from ke_cli.data.download import fetch
url, sha256, size, moment = sys.argv[1:]

def dies(function, after):
    def called(*args, **kwargs):
        if after:
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return called

if moment:
    name, _, side = moment.partition("-")
    setattr(os, name, dies(getattr(os, name), side == "after"))
print(fetch(url, sha256, int(size)))
"""
"""Downloads a file; dies before or after the first call of a function of ``os``, if it is to."""


@dataclass
class Site:
    """A server that sends what it is told, and stops in the middle to wait for a word."""

    url: str = ""
    body: bytes = CONTENT
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stop_after: int | None = None
    asked: int = 0
    waiting: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in download.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked += 1
            stop, site.stop_after = site.stop_after, None  # only the first is kept waiting
            self.send_response(site.status)
            for name, value in ({"Content-Length": str(len(site.body))} | site.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.send(site.body[:stop])
            if stop is not None:
                site.waiting.set()
                site.go_on.wait(60)
                self.send(site.body[stop:])

        def send(self, content: bytes) -> None:
            try:
                self.wfile.write(content)
                self.wfile.flush()
            except OSError:
                self.close_connection = True  # the other side is gone

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_port}/a/data.json"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.go_on.set()
        server.shutdown()
        thread.join()


Child = subprocess.Popen[str]


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Child]]:
    """Start a process that downloads the file of the site."""
    children: list[Child] = []

    def started(moment: str = "") -> Child:
        command = [sys.executable, "-c", CHILD, site.url, SHA256, str(len(CONTENT)), moment]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        children.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return children[-1]

    yield started
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def found() -> dict[str, bytes]:
    """The files of the cache, without locks."""
    files = (path for path in cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.name: path.read_bytes() for path in files}


def fetch_here(site: Site) -> bytes:
    return fetch(site.url, SHA256, len(CONTENT)).read_bytes()


@pytest.mark.parametrize("sent", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5, 3 * CHUNK_BYTES, len(CONTENT) - 1])
def test_killed_while_the_file_comes_in(site: Site, start: Callable[..., Child], sent: int) -> None:
    site.stop_after = sent
    child = start()
    assert site.waiting.wait(60)
    if sent > CHUNK_BYTES:
        wait_for(lambda: any(len(content) >= CHUNK_BYTES for content in found().values()))
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    assert "data.json" not in found()
    assert fetch_here(site) == CONTENT
    assert found() == {"data.json": CONTENT} and site.asked == 2


@pytest.mark.parametrize("moment", ["fsync-before", "fsync-after", "replace-before", "replace-after"])
def test_killed_between_writing_and_moving(site: Site, start: Callable[..., Child], moment: str) -> None:
    assert start(moment).wait(60) == -signal.SIGKILL
    whole = moment == "replace-after"
    assert ("data.json" in found()) is whole
    assert fetch_here(site) == CONTENT
    assert found() == {"data.json": CONTENT} and site.asked == (1 if whole else 2)


def test_interrupted_leaves_nothing(site: Site, start: Callable[..., Child]) -> None:
    site.stop_after = CHUNK_BYTES
    child = start()
    assert site.waiting.wait(60)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) != 0
    assert found() == {}


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def told(child: Child, words: str) -> str:
    """Read what a process says until it says these words."""
    assert child.stderr
    lines = []
    for line in child.stderr:
        lines.append(line)
        if words in line:
            break
    assert words in lines[-1], lines
    return "".join(lines)


def test_two_processes_at_once_download_once(site: Site, start: Callable[..., Child]) -> None:
    site.stop_after = CHUNK_BYTES
    first = start()
    assert site.waiting.wait(60)
    others = [start(), start()]
    for other in others:
        told(other, "waiting for another process that downloads data.json")
    site.go_on.set()
    outs = {child.communicate(timeout=60)[0] for child in (first, *others)}
    assert len(outs) == 1 and site.asked == 1
    assert found() == {"data.json": CONTENT}


def test_one_waits_and_the_other_is_killed(site: Site, start: Callable[..., Child]) -> None:
    site.stop_after = CHUNK_BYTES
    first = start()
    assert site.waiting.wait(60)
    second = start()
    told(second, "waiting for another process")
    first.send_signal(signal.SIGKILL)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert Path(out.strip()).read_bytes() == CONTENT
    assert found() == {"data.json": CONTENT} and site.asked == 2


def test_nobody_is_waited_for_forever(site: Site, start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> None:
    site.stop_after = 1
    start()
    assert site.waiting.wait(60)
    monkeypatch.setattr(download, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match=r"another process has been downloading data\.json") as caught:
        fetch_here(site)
    assert "data.json.lock" in str(caught.value) and "dataset.path=FILE" in str(caught.value)


@given(
    body=st.sampled_from([CONTENT, CONTENT[:-1], CONTENT + b" ", CONTENT[::-1], b"", b"<html>"])
    | st.binary(max_size=50),
    status=st.sampled_from([200, 200, 203, 206, 302, 404, 500, 503]),
    headers=st.dictionaries(
        st.sampled_from(["Content-Length", "Content-Encoding", "Location", "Content-Type"]),
        st.sampled_from(["gzip", "-1", "0", "10", "99999999999", "x", "/a/data.json", "file:///etc/passwd", "\x1b[2J"]),
        max_size=2,
    ),
)
@example(body=CONTENT, status=200, headers={})
@example(body=CONTENT, status=200, headers={"Content-Length": "10"})
@example(body=CONTENT, status=302, headers={"Location": "file:///etc/passwd"})
@example(body=CONTENT, status=302, headers={"Location": "/a/data.json"})
def test_a_server_that_sends_anything(site: Site, body: bytes, status: int, headers: dict[str, str]) -> None:
    for path in cache_dir().rglob("data.json"):
        path.unlink()
    site.body, site.status, site.headers = body, status, headers
    try:
        path = fetch(site.url, SHA256, len(CONTENT))
    except UserError as error:
        assert is_calm(str(error)), why_not_calm(str(error))
        assert site.url in str(error) and "dataset.path=FILE" in str(error)
        assert found() == {}
    else:
        assert path.read_bytes() == CONTENT and found() == {"data.json": CONTENT}


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "a pipe", "a folder"])
def test_a_copy_that_is_not_the_file_is_never_used(site: Site, damage: str) -> None:
    path = fetch(site.url, SHA256, len(CONTENT))
    if damage in ("a pipe", "a folder"):
        path.unlink()
        path.mkdir() if damage == "a folder" else os.mkfifo(path)
    else:
        path.write_bytes({"cut": CONTENT[:-1], "changed": b"x" + CONTENT[1:], "empty": b""}[damage])
    if damage == "a folder":
        with pytest.raises(UserError, match="the cache cannot be used"):
            fetch_here(site)
    else:
        assert fetch_here(site) == CONTENT and site.asked == 2


def test_a_half_written_file_that_is_a_link_is_not_followed(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not ours")
    folder = cache_dir() / "datasets" / SHA256[:16]
    folder.mkdir(parents=True)
    (folder / ".data.json.part").symlink_to(outside)
    assert fetch_here(site) == CONTENT
    assert outside.read_text() == "not ours" and found() == {"data.json": CONTENT}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read_serves_what_it_has(site: Site) -> None:
    path = fetch(site.url, SHA256, len(CONTENT))
    path.with_name("data.json.lock").unlink(missing_ok=True)
    path.parent.chmod(0o500)
    try:
        assert fetch_here(site) == CONTENT
        path.parent.chmod(0o700)
        path.unlink()
        path.parent.chmod(0o500)
        with pytest.raises(UserError, match="the cache cannot be used") as caught:
            fetch_here(site)
        assert "KE_CACHE=FOLDER" in str(caught.value) and str(path.parent) in str(caught.value)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("name", download.OFFLINE)
@pytest.mark.parametrize("value", ["1", "true", "Yes", "ON"])
def test_each_way_to_say_offline(site: Site, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"is not in the cache, and {name} forbids downloads"):
        fetch_here(site)
    assert site.asked == 0 and not cache_dir().exists()
