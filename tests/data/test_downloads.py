"""Downloads from a server on the loopback address."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pvae.data import DamagedFileError, DownloadError
from pvae.data.catalogue import SETS, NamedSet
from pvae.data.downloads import Original, obtain

REAL = os.environ.get("PVAE_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="PVAE_DATA is not set: no real data sets here")
CONTENT = bytes(range(256)) * 40


@dataclass
class Server:
    """Content by path, the number of bytes to send, and the requested paths."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    sent: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            content = served.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: served.sent])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Server(f"http://127.0.0.1:{http.server_port}")
    # The argument is the server's polling interval for shutdown, in seconds.
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PVAE_DATA", raising=False)
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def original(*urls: str, content: bytes = CONTENT) -> Original:
    return Original("set/file.bin", f"sha256:{hashlib.sha256(content).hexdigest()}", urls)


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_file_downloaded_once(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/file.bin"] = CONTENT
    wanted = original(f"{server.url}/file.bin")
    assert obtain(wanted).read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err, "there must be a progress bar"
    assert obtain(wanted) == cache / "set" / "file.bin"
    assert server.asked == ["/file.bin"]
    assert files_in(cache) == ["set/file.bin"]


def test_mirrors_in_turn(server: Server) -> None:
    server.files["/bad.bin"] = b"a page that wants a password"
    server.files["/file.bin"] = CONTENT
    names = ("none.bin", "bad.bin", "file.bin")
    assert obtain(original(*(f"{server.url}/{n}" for n in names))).read_bytes() == CONTENT
    assert server.asked == [f"/{n}" for n in names]


def test_wrong_checksum_leaves_no_file(server: Server, cache: Path) -> None:
    server.files["/file.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match="its checksum is not sha256:") as caught:
        obtain(original(f"{server.url}/file.bin"))
    assert f"put the file at $PVAE_DATA/set/file.bin (PVAE_DATA is not set) or {cache}" in str(
        caught.value
    )
    assert files_in(cache) == []


def test_truncated_file_leaves_no_file(server: Server, cache: Path) -> None:
    server.files["/file.bin"] = CONTENT
    server.sent = 1000
    with pytest.raises(DownloadError, match=r"ended early and the file is truncated.*put the file"):
        obtain(original(f"{server.url}/file.bin"))
    assert files_in(cache) == []


def test_no_network_leaves_no_file(server: Server, cache: Path) -> None:
    # Nothing listens on port 9 of the loopback address, which simulates a missing network.
    with pytest.raises(DownloadError, match=r"no connection; is there a network.*put the file at"):
        obtain(original("http://127.0.0.1:9/file.bin"))
    with pytest.raises(DownloadError, match="HTTPError, 404"):
        obtain(original(f"{server.url}/gone.bin"))
    assert files_in(cache) == []


@pytest.mark.parametrize("where", ["PVAE_DATA", "PVAE_CACHE"])
def test_damaged_file_raises(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv(where, str(tmp_path))
    path = tmp_path / "set" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    server.files["/file.bin"] = CONTENT
    with pytest.raises(DamagedFileError, match=rf"{path} has sha256 .*expected .*replace it"):
        obtain(original(f"{server.url}/file.bin"))
    assert server.asked == []


def test_data_folder_before_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVAE_DATA", str(tmp_path / "data"))
    for folder in (tmp_path / "data", cache):
        (folder / "set").mkdir(parents=True)
        (folder / "set" / "file.bin").write_bytes(CONTENT)
    assert obtain(original()) == tmp_path / "data" / "set" / "file.bin"


def from_server(name: str, server: Server) -> NamedSet:
    """A named set whose originals come only from the server."""
    moved = tuple(replace(o, urls=(f"{server.url}/{o.path}",)) for o in SETS[name].originals)
    return replace(SETS[name], originals=moved)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "binarized-mnist", "omniglot"])
def test_download_error_names_first_original(name: str, server: Server) -> None:
    named = from_server(name, server)
    with pytest.raises(DownloadError) as caught:
        named.read(named.originals)
    assert server.asked == [f"/{named.originals[0].path}"]
    assert f"$PVAE_DATA/{named.originals[0].path}" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "binarized-mnist", "omniglot"])
def test_public_urls_end_in_file_names(name: str) -> None:
    for o in SETS[name].originals:
        assert o.urls
        assert all(url.startswith("http") and url.endswith(Path(o.path).name) for url in o.urls)


@needs_data
def test_mnist_from_server(server: Server) -> None:
    for o in SETS["mnist"].originals:
        server.files[f"/{o.path}"] = (Path(REAL or "") / o.path).read_bytes()
    named = from_server("mnist", server)
    arrays = named.read(named.originals)
    assert {name: array.shape for name, array in arrays.items()} == {
        "train": (60000, 28, 28),
        "train_labels": (60000,),
        "test": (10000, 28, 28),
        "test_labels": (10000,),
    }
    assert len(server.asked) == 4


@needs_data
def test_binarized_mnist_conversion(server: Server, cache: Path) -> None:
    real = np.load(Path(REAL or "") / "binarized-mnist" / "binarized_mnist.npz")
    for split in ("train", "valid", "test"):
        text = np.full((len(real[split]), 2 * 784), ord(" "), np.uint8)
        text[:, ::2] = np.unpackbits(real[split], axis=1, count=784) + ord("0")
        text[:, -1] = ord("\n")
        server.files[f"/binarized-mnist/binarized_mnist_{split}.amat"] = text.tobytes()
    named = from_server("binarized-mnist", server)
    arrays = named.read(named.originals)
    assert files_in(cache) == ["binarized-mnist/binarized_mnist.npz"]
    assert sorted(arrays) == ["test", "train", "valid"]
    assert np.array_equal(
        arrays["test"].reshape(-1, 784), np.unpackbits(real["test"], axis=1, count=784)
    )
    again = named.read(named.originals)
    assert len(server.asked) == 3, "the second time it comes from the cache"
    assert np.array_equal(again["train"], arrays["train"])
