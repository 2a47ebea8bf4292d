"""The official file: fetched once, verified, and never half there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from counterfact_files import record
from ke_cli.data.counterfact import CounterFact
from ke_cli.data.download import fetch
from ke_cli.errors import UserError
from ke_cli.paths import cache_dir

CONTENT = json.dumps([record()]).encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the local server sends, and what it was asked for."""

    url: str = ""
    body: bytes = CONTENT
    announced: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            if not self.path.endswith("/counterfact.json"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(site.announced or len(site.body)))
            self.end_headers()
            self.wfile.write(site.body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/dsets/counterfact.json"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()


def _leftovers() -> list[str]:
    return sorted(path.name for path in cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_download_happens_once_and_loads(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    loader = CounterFact(url=site.url, sha256=SHA256, size_bytes=len(CONTENT))
    dataset = loader.load()
    assert [case.case_id for case in dataset.cases] == ["7"]
    assert (dataset.fingerprint, dataset.source) == (SHA256, site.url)
    assert loader.load() == dataset
    assert site.asked == ["/dsets/counterfact.json"]
    assert _leftovers() == ["counterfact.json"]
    told = capsys.readouterr()
    assert told.out == "" and f"downloading {site.url}" in told.err and "downloaded to" in told.err


def test_a_damaged_copy_is_fetched_again(site: Site) -> None:
    path = fetch(site.url, SHA256, len(CONTENT))
    path.write_bytes(CONTENT[:-1])
    assert fetch(site.url, SHA256, len(CONTENT)).read_bytes() == CONTENT
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    ("body", "announced", "message"),
    [
        (CONTENT[:-1] + b" ", None, "another file: SHA-256"),
        (CONTENT[:50], None, f"broke off after 50 of {len(CONTENT)} bytes"),
        (CONTENT[:50], len(CONTENT), "broke off after 50|IncompleteRead"),
        (CONTENT + b"  ", None, f"longer than {len(CONTENT)} bytes"),
    ],
)
def test_a_wrong_file_leaves_nothing(site: Site, body: bytes, announced: int | None, message: str) -> None:
    site.body, site.announced = body, announced
    with pytest.raises(UserError, match=message) as caught:
        fetch(site.url, SHA256, len(CONTENT))
    assert site.url in str(caught.value) and "dataset.path=FILE" in str(caught.value)
    assert _leftovers() == []


def test_a_wrong_file_does_not_replace_a_good_one_of_another_sum(site: Site) -> None:
    good = fetch(site.url, SHA256, len(CONTENT))
    with pytest.raises(UserError):
        fetch(site.url, "0" * 64, len(CONTENT))
    assert good.read_bytes() == CONTENT


def test_a_server_that_refuses_or_is_not_there(site: Site) -> None:
    with pytest.raises(UserError, match=r"none\.json could not be downloaded \(HTTPError: HTTP Error 404"):
        fetch(site.url.replace("counterfact.json", "none.json"), SHA256, 1)
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/counterfact.json", SHA256, 1)


def test_offline_refuses_unless_the_file_is_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        fetch(site.url, SHA256, len(CONTENT))
    assert str(caught.value).splitlines() == [
        "counterfact.json is not in the cache, and HF_HUB_OFFLINE forbids downloads",
        f"  where:   {site.url}",
        "  try:     dataset.path=FILE, with a copy of the file",
    ]
    assert site.asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetch(site.url, SHA256, len(CONTENT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(site.url, SHA256, len(CONTENT)).read_bytes() == CONTENT


def test_many_at_once_download_once(site: Site) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(site.url, SHA256, len(CONTENT)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(site.asked) == 1


def test_a_file_without_a_known_checksum_is_held_to_its_first_download(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(site.url, None, None)
    assert path.read_bytes() == CONTENT and _leftovers() == ["counterfact.json", "counterfact.json.sha256"]
    assert path.with_name("counterfact.json.sha256").read_text() == f"{SHA256}\n"
    assert fetch(site.url, None, None) == path and len(site.asked) == 1
    path.write_bytes(CONTENT[:-1])
    assert fetch(site.url, None, None).read_bytes() == CONTENT and len(site.asked) == 2
    path.unlink()
    site.body = CONTENT + b" "
    with pytest.raises(UserError, match="another file than the first time: SHA-256") as caught:
        fetch(site.url, None, None)
    record = path.with_name("counterfact.json.sha256")
    assert f"or remove {record}, if the new file is wanted" in str(caught.value) and SHA256 in str(caught.value)
    record.unlink()
    assert fetch(site.url, None, None).read_bytes() == CONTENT + b" "
    assert "downloading" in capsys.readouterr().err


def test_a_copy_whose_record_is_lost_or_garbled_is_fetched_again(site: Site) -> None:
    path = fetch(site.url, None, None)
    for garbled in (b"", b"\xff", b"no checksum"):
        path.with_name("counterfact.json.sha256").write_bytes(garbled)
        assert fetch(site.url, None, None) == path
    assert len(site.asked) == 4


def test_a_cache_that_cannot_be_written(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"counterfact\.json could not be downloaded"):
        fetch(site.url, SHA256, len(CONTENT))


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KE_CACHE", raising=False)
    assert "ke-cli" in cache_dir().parts
    monkeypatch.setenv("KE_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
