"""The command `tools.shift`: what it prints, writes and keeps, and its messages about bad input."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from browser import browsing, find_chromium
from PIL import Image
from reference_originals import PAIRS, random_tensors

from sslshift.data.decode import Canvas
from sslshift.models import PatchMLP, PretrainedEncoder, save_encoder
from sslshift.shift.distances import DISTANCES
from sslshift.shift.index import DEFAULT_DISTANCE
from sslshift.transfer.encoders import encoder_named
from sslshift.transfer.matrix import architectures, by_kind

# One device, as most users have.
ONE = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

# One process for all calls: starting one and compiling take seconds.
DRIVER = """
import contextlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from tools import shift

for line in sys.stdin:
    said, error = io.StringIO(), ""
    with flagsaver.flagsaver(), contextlib.redirect_stdout(said):
        flags.FLAGS(["shift", *json.loads(line)])
        try:
            shift.main()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    print("answer " + json.dumps([said.getvalue(), error]), flush=True)
"""


@pytest.fixture(scope="module")
def call():
    """A function that makes a call: what it printed, and its error or an empty text."""

    def made(arguments):
        print(json.dumps(arguments), file=process.stdin, flush=True)
        answer = next((line for line in process.stdout if line.startswith("answer ")), None)
        assert answer, f"{arguments} ended the process"
        return json.loads(answer.removeprefix("answer "))

    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ONE) as process:
        yield made
        process.stdin.close()


def write(folder, images, suffix="png"):
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03d}.{suffix}")
    return folder


def textures(number, seed, cells, side=32, tint=(1.0, 1.0, 1.0)):
    """Colour images of coarse or fine random cells, brighter to the right."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        cell = (random.integers(0, 256, (cells, cells, 3)) * np.array(tint)).astype(np.uint8)
        image = np.asarray(Image.fromarray(cell).resize((side, side), Image.Resampling.BICUBIC))
        yield (image * np.linspace(0.2, 1, side)[:, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write(root / "parts", textures(80, 0, 4))
    write(root / "near", textures(90, 1, 4))
    write(root / "far", textures(70, 2, 12, 48, (0.3, 0.6, 1.0)), "jpg")
    write(root / "few", textures(7, 3, 4))
    write(root / "flat", [np.full((32, 32, 3), 90, np.uint8)] * 60)
    write(root / "gray", [image[..., 0] if number % 2 else image for number, image in enumerate(textures(60, 4, 4))])
    (root / "near" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (root / "empty").mkdir()
    # Names that break lines, are no UTF-8, hold HTML, or are longer than any column.
    write(root / os.fsdecode(b"two\nlines \xff"), textures(3, 5, 4))
    write(root / ("long" * 50), textures(20, 6, 4))
    np.savez(root / "other.npz", weight=np.ones((3, 3), np.float32))
    with np.load(PAIRS, allow_pickle=False) as stored:
        shapes = json.loads(str(stored["torchvision/basic/about"]))["shapes"]
    np.savez(root / "published.npz", **random_tensors(shapes))
    module = PatchMLP(width=4, features=8)
    variables = module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    huge = jax.tree.map(lambda leaf: np.full(leaf.shape, 3e38, np.float32), variables)
    save_encoder(PretrainedEncoder(module, huge, Canvas(32, 32, 3)), root / "huge.safetensors")
    return root


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """One call with everything, and its folder."""
    out = tmp_path_factory.mktemp("out")
    # The kernel distance is shown whatever distance the index uses.
    arguments = [
        f"--target=folder:{data}/parts",
        f"--source=folder:{data}/far?licence=CC-BY-4.0&cost_per_image=0.5",
        f"--source=folder:{data}/near",
        f"--source=the same = folder:{data}/parts",
        "--mixture=planned = 0.7*near + 30%*far",
        "--distances=kernel,frechet,proxy_a",
        "--html",
        f"--out={out}",
    ]
    command = [sys.executable, "-m", "tools.shift", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE)
    assert done.returncode == 0, done.stderr
    return out, arguments, done.stdout


def rows(out):
    with (out / "shift.csv").open() as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def test_sources_stand_in_order_with_intervals_costs_and_a_reading(first):
    out, _, said = first
    table = rows(out)
    assert list(table)[-1] == "far"
    assert list(table)[-2] == "planned"
    assert all(float(row["low"]) <= float(row["index"]) <= float(row["high"]) for row in table.values())
    assert {row["sample_size"] for row in table.values()} == {"35"}
    assert (table["far"]["licence"], table["far"]["cost_per_image"], table["far"]["used"]) == ("CC-BY-4.0", "0.5", "70")
    assert table["planned"]["cost_per_image"] == "0.15"
    assert table["the same"]["copies_of_target"] == "80"
    assert (table["near"]["copies_of_target"], table["near"]["why"]) == ("0", "")
    assert float(table["near"]["low"]) < 0 < float(table["near"]["high"])
    assert float(table["far"]["low"]) > float(table["near"]["high"])
    for text in (
        "In colour and texture, these images do not distinguish near from another sample of the target; it may be up to",
        "These distances are as this encoder sees them",
        "far is farther than planned by",
        "the same and the target share images, 80 of its 80 are copies as the encoder sees them",
        "It is the target itself.",
        "near: 1 file is refused and not counted: ",
        "untrained small conv net, random weights of seed 0",
        "not by what the pictures show",
        "python -m tools.fetch_encoder dinov2-small",
        "the target 32 x 32, colour; far 48 x 48, colour",
        "proxy A: of a linear classifier",
        f"by the {DISTANCES[DEFAULT_DISTANCE].title} distance",
    ):
        assert text in said, text
    # On a busy machine lines of progress come first. The answer, then its table, then everything else.
    lines = said[said.index("In colour and texture, ") :].splitlines()
    assert re.match("In colour and texture, .* far", lines[0])
    assert lines[1].startswith("The index is 0 for another sample of the target and 1 for ")
    assert lines[3].split() == ["Distance", "from", "the", "target"]
    assert lines[4].split() == ["source", "index", "covers", "images", "unique", "copies", "cost", "licence"]
    assert max(len(line) for line in said.splitlines() if line.startswith(("far ", "planned ", "floor "))) <= 100
    written = (out / "table.md").read_text()
    assert re.search(r"\| planned \| \S+ \[.*\] \| \d+% \| 70 planned \|", written)
    assert "| 0.5 each, 35 in all | CC-BY-4.0 |" in written
    record = json.loads((out / "shift.json").read_text())
    assert record["canvas"] == [32, 32, 3]
    assert record["sources"]["planned"]["counts"] == {"near": 49, "far": 21}
    assert len(record["sources"]["far"]["index"]["draws"]) == 40


def test_the_page_stands_alone(first):
    out, _, _ = first
    page = (out / "shift.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    # Eight of the target, eight uncovered, and of each of three sources eight pairs and eight others.
    assert page.count("<img ") == 8 + 8 + 3 * 24
    for text in (
        "Map",
        "block3",
        "reference: unstructured noise",
        "Images of the target that are farthest from all sources",
        "near/0",
        "indistinguishable in their distance",
    ):
        assert text in page, text
    assert page.count('class="chart"') == 3


def test_a_second_call_gives_the_same_bytes_and_another_target_reads_no_old_source(first, data, call):
    out, arguments, _ = first
    before = {name: (out / name).read_bytes() for name in ("shift.csv", "shift.html", "table.md", "shift.json")}
    # Features are computed anew, histograms are kept.
    shutil.rmtree(out / "features")
    kept = {path: path.stat().st_mtime_ns for path in (out / "dna").rglob("*.npz")}
    _, error = call(arguments)
    assert error == ""
    assert {name: (out / name).read_bytes() for name in before} == before
    kept |= {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.npy")}
    another = [f"--target=folder:{data}/near", f"--source=folder:{data}/far", "--distances=none", "--html", f"--out={out}"]
    said, error = call(another)
    assert error == ""
    assert "Raw distances" not in said
    after = {path: path.stat().st_mtime_ns for folder in ("features", "dna") for path in (out / folder).rglob("*.np?")}
    assert kept.items() <= after.items()
    # The noise of another target: three arrays of it, and its histograms.
    assert len(after) - len(kept) == 4
    for name, content in before.items():
        (out / name).write_bytes(content)


def test_bad_input_gets_one_sentence(data, tmp_path, call):
    target = f"--target=folder:{data}/parts"
    near = f"--source=folder:{data}/near"
    cases = [
        ([target, near, f"--source=folder:{data}/near"], "two sources are called folder:"),
        ([target, f"--source=a = folder:{data}/near", f"--source=a = folder:{data}/far"], "two sources are called a;"),
        ([target, near, "--mixture=m = 0.5*near + 0.5*web"], "no source is called 'web'; expected one of near"),
        (
            [target, near, f"--source=folder:{data}/far", "--mixture=m = 0.5*near + 0.4*far"],
            "its shares: expected shares that sum to 100%, got 90%",
        ),
        ([target, near, "--mixture=near = 1*near"], "near is already the name of a source or of another mixture"),
        ([target, near, "--mixture=near and far"], "no source is called 'near and far'; expected one of near"),
        ([target, near.replace("folder", "foldr")], f"Did you mean 'folder:{data}/near'?"),
        ([f"--target={data}/parts", near], f"--target: expected 'URI' or .* Did you mean 'folder:{data}/parts'?"),
        ([target, f"--source=a = {data}/near"], f"Did you mean 'a = folder:{data}/near'?"),
        ([target, f"--source=a:b = folder:{data}/near"], "The name 'a:b' cannot be used: a name contains no '=', ':' or '?'"),
        ([target, near, f"--out={data}/other.npz/out"], f"is a file ({data}/other.npz); name a folder"),
        ([target, near, "--out="], "--out= is empty; name a folder"),
        ([target, near, "--encoder="], "got an empty path"),
        ([target, "--source=parts"], "--source: expected 'URI' or 'NAME = URI', where the URI begins with one of arrayrecord:"),
        ([target, near, "--encoder=dinov2-small"], "python -m tools.fetch_encoder dinov2-small --out=. and give the path"),
        ([target, near, "--encoder=/no/such.safetensors"], "fetch_encoder NAME fetches a well-known encoder (dinov2-small"),
        ([target, near, f"--encoder={data}/other.npz"], "belong to no known architecture"),
        ([target, near, f"--encoder={data}/huge.safetensors"], "has features that are not finite; the encoder is broken"),
        (
            [target, near, "--encoder=untrained:resnet"],
            "after untrained:, got 'untrained:resnet'",
        ),
        ([target, near, "--distances=kernel,emd"], "as the name of a distance, got 'emd'"),
        (
            [f"--target=folder:{data}/few", near],
            f"The target has 7 images that can be read; a shift index by {DEFAULT_DISTANCE} needs at least",
        ),
        ([f"--target=folder:{data}/empty", near], "holds no readable image"),
        ([f"--target=folder:{data}/flat", near, "--encoder=pixels"], "since they are all alike: there is no scale"),
        ([target, f"--source=folder:{data}/few"], f"it has 7 images that can be read; an index by {DEFAULT_DISTANCE} needs"),
        ([target, f"--source=folder:{data}/none"], "there is no folder"),
    ]
    for arguments, message in cases:
        _, error = call([f"--out={tmp_path / 'out'}", "--encoder=pixels", *arguments])
        assert re.search(re.escape(message).replace(r"\.\*", ".*"), error), (arguments, error)
        assert error.startswith(("ValueError: ", "OSError: ")), error
        assert "\n" not in error


def test_a_published_encoders_file_is_recognised_by_its_content(data):
    named = encoder_named(str(data / "published.npz"))
    assert named.title.startswith("published (ResNet")
    assert (named.trained, named.remark, named.canvas) == (True, "", (224, 224, 3))
    (kind,) = by_kind([data / "published.npz"])
    assert kind.name == "published"
    ((name, _),) = architectures([kind])
    assert name.startswith("untrained ResNet")


def test_what_was_measured_stays_readable_when_a_source_fails(data, tmp_path, call):
    pixels = [f"--target=folder:{data}/parts", "--encoder=pixels", "--distances=none", "--html", f"--out={tmp_path}"]
    published = [f"--encoder={data}/published.npz", "--image_size=32", "--distances=none", f"--out={tmp_path / 'other'}"]
    said, error = call(
        [
            *pixels,
            f"--source=folder:{data}/near",
            f"--source=folder:{data}/nowhere",
            f"--source=folder:{data}/flat",
            f"--source=folder:{data}/gray",
            f"--source=folder:{data}/few",
            f"--source=<script>alert(1)</script> = folder:{data}/parts",
            f"--source=folder:{data}/{'long' * 50}",
            f"--source=folder:{data}/{os.fsdecode(b'two' + bytes([10]) + b'lines ' + bytes([255]))}",
            "--mixture=bad = 0.5*near + 0.5*nowhere",
        ]
    )
    trained, fine = call([f"--target=folder:{data}/parts", f"--source=folder:{data}/far", "--images=40", *published])
    assert fine == ""
    assert "Encoder: published (ResNet" in trained
    assert "unlike at 0.99  unlike at 0.95" in trained
    assert "those whose cosine to another image is at least this number" in trained
    assert "untrained" not in trained
    assert error == "RuntimeError: 4 of 9 sources could not be measured."
    table = rows(tmp_path)
    long = "longlonglonglonglonglong…onglonglonglong"
    assert {name for name, row in table.items() if row["index"]} == {"near", "flat", "gray", "<script>alert(1)</script>", long}
    assert table[r"two lines \xff"]["used"] == "3"
    assert "there is no folder" in table["nowhere"]["why"]
    assert table["bad"]["why"] == "its component nowhere cannot be measured"
    assert "needs at least 20" in table["few"]["why"]
    assert "few was not measured: it has 7 images" in said
    # All images of it are one.
    assert table["flat"]["unique"] == "1"
    assert float(table["flat"]["low"]) > 0
    assert "the target 32 x 32, colour; sides of all are 32 pixels (`looks` in shift.json)" in said
    assert json.loads((tmp_path / "shift.json").read_text())["sources"]["gray"]["looks"] == "32 x 32, 12 of 24 in colour"
    assert f"{long} (20) has few images, so 20 images of every source are compared; without it, it could be 60," in said
    page = (tmp_path / "shift.html").read_text()
    assert "nowhere was not measured: " in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "Raw pixels have no layers." in page


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here")
def test_the_answer_its_index_and_coverage_are_on_a_telephones_first_screen(first, data, tmp_path):
    out, _, _ = first
    page = (out / "shift.html").read_text()
    # A name of one long word must not push the numbers off the screen.
    (tmp_path / "page.html").write_text(page.replace('<td class="text">far</td>', f'<td class="text">{"far" * 30}</td>'))
    with browsing() as browser:
        browser.open(tmp_path / "page.html", 400)
        assert browser.run("document.documentElement.scrollWidth") <= 400
        cells = (
            "Array.from(document.querySelector('table').querySelectorAll('tr')).flatMap((r) => Array.from(r.cells).slice(0, 3))"
        )
        assert browser.run(f"{cells}.length") == 3 * 5
        assert browser.run(f"{cells}.every((cell) => cell.getBoundingClientRect().right <= 400)")
        heads = "Array.from(document.querySelectorAll('th'), (cell) => cell.textContent)"
        assert browser.run(heads)[:3] == ["source", "index", "covers"]
        # Before the table there is only the answer and its limits.
        assert browser.run("document.querySelector('.answer').getBoundingClientRect().top") < 200
        assert browser.run("document.querySelectorAll('.wide')[0].closest('figure').previousElementSibling.tagName") == "H2"
