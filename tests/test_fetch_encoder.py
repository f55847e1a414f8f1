"""Fetching of published encoders: only with the digest that is known."""

import hashlib
import http.server
import subprocess
import sys
import threading

import pytest
from published import VIT
from reference_originals import HEADS

from sslshift.models.reference import CHECKPOINTS, load_reference
from sslshift.models.reference.fetching import Download, fetch, find_download
from sslshift.storage import whole_file


@pytest.fixture
def server(tmp_path):
    """The address of a server on this machine that gives the files of a folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def fetched(file, url, digest, size=None, on_progress=lambda done: None):
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as target:
        fetch(Download(file.name, url, digest, size), target, on_progress)


def test_a_file_is_fetched_only_with_its_digest(server, tmp_path):
    folder, address = server
    content = bytes(range(256)) * 9000
    (folder / "x.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    url = f"{address}/x.safetensors"
    file = tmp_path / "new" / "x.safetensors"
    steps = []
    fetched(file, url, digest, len(content), steps.append)
    assert file.read_bytes() == content
    assert steps[-1] == len(content)
    assert len(steps) > 1
    file.unlink()
    for wrong, size, message in (("0" * 64, None, "they were deleted"), (digest, 1000, "Expected 1,000 bytes at most")):
        with pytest.raises(ValueError, match=message):
            fetched(file, url, wrong, size)
        assert list(file.parent.iterdir()) == []
    with pytest.raises(OSError, match="cannot be fetched: File not found"):
        fetched(file, f"{address}/y.safetensors", digest)
    assert list(file.parent.iterdir()) == []


def fetch_command(*arguments):
    return subprocess.run([sys.executable, "-m", "tools.fetch_encoder", *arguments], capture_output=True, text=True)


def test_the_command_fetches_names_what_it_knows_and_overwrites_nothing(tensors, write, tmp_path):
    file = write(tensors(VIT)[0], "tiny.safetensors")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    out = tmp_path / "out"
    done = fetch_command("mine", f"--out={out}", f"--url={file.as_uri()}", f"--sha256={digest}")
    assert done.returncode == 0, done.stderr
    assert "fetched" in done.stdout
    assert load_reference(out / "mine.safetensors", heads=HEADS).card["sha256"] == digest
    wrong = fetch_command("dinov2-small", f"--out={out}", f"--url={file.as_uri()}")
    assert wrong.returncode == 1
    assert CHECKPOINTS["dinov2-small"].sha256 in wrong.stderr
    assert [path.name for path in out.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize(
    ("name", "url", "digest", "message"),
    [
        ("", "", "", "got ''. Known names: dinov2-small"),
        ("../x", "", "", "Expected the name of an encoder"),
        ("unknown", "", "", "--url and --sha256 are needed. Known names: dinov2-small"),
        ("unknown", "https://example.org/x.safetensors", "abc", "64 hexadecimal digits"),
        ("unknown", "https://example.org/x.pth", "0" * 64, r"ends in \.safetensors or \.npz"),
        ("unknown", "ftp://example.org/x.npz", "0" * 64, "begins with https, http, file"),
        ("dinov2-small", "", "0" * 64, "use another name for another file"),
    ],
)
def test_downloads_that_cannot_be_fetched_are_refused(name, url, digest, message):
    with pytest.raises(ValueError, match=message):
        find_download(name, url, digest)
