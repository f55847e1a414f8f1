"""Generated sources, from a generator of noise."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from source_builders import files, refusals

from sslshift.data import open_source
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.records import generating
from sslshift.data.records.encode import Encoding
from sslshift.data.records.folder import locked
from sslshift.data.records.generating import Generation, count_kept, find_generated, run_generation
from sslshift.data.records.importing import Import
from sslshift.data.records.prompts import Sampling, image_seed, read_prompts
from sslshift.data.records.running import run_import
from sslshift.data.sources.manifest import MANIFEST

SAMPLING = Sampling("noise@1", "NoisePipeline", steps=4, guidance=2.5)


def noise(prompt: str, seed: int) -> np.ndarray:
    """Returns uint8 [24, 32, 3], different for every prompt and seed."""
    return np.random.default_rng([seed, zlib.crc32(prompt.encode())]).integers(0, 256, (24, 32, 3), np.uint8)


class Generator:
    """Generator of noise, with `answers` in place of the n-th image of a prompt; interrupted after `stop_after` batches."""

    def __init__(self, answers: dict | None = None, stop_after: int | None = None):
        self.answers = answers or {}
        self.stop_after = stop_after
        self.batches = []

    def __call__(self, prompts: list[str], seeds: list[int]) -> list:
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        asked = [prompt for batch in self.batches for prompt in batch]
        self.batches.append(prompts)
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            answer = self.answers.get((prompt, asked.count(prompt)))
            images.append(Image.fromarray(noise(prompt, seed)) if answer is None else answer)
            asked.append(prompt)
        return images


def job(output: Path, classes: str = "cat; dog; owl", **changes) -> Generation:
    settings = {"per_prompt": 4, "encoding": Encoding(24, "png"), "shard_size": 6} | changes
    return Generation(read_prompts(classes, ["a {}", "one {}"]), output, SAMPLING, **settings)


def images(folder: Path) -> dict[str, bytes]:
    """Returns the pixels of a source's images by origin."""
    origins = pq.read_table(folder / MANIFEST, columns=["origin"]).column("origin").to_pylist()
    source = open_source(f"arrayrecord:{folder}")
    return {origin: source[i]["image"].tobytes() for i, origin in enumerate(origins)}


def test_prompts_become_a_labelled_source(tmp_path):
    job_ = job(tmp_path / "out", "owl; cat|my cat Tom", seed=3, licence="by noise@1", cost_per_image=0.25)
    summary = run_generation(job_, Generator(), batch_size=3, about={"versions": "noise 1"})
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert len(source) == summary.records == 8
    assert source.classes == ("cat", "owl")
    assert source.labels.tolist() == [1, 0] * 4
    assert (source.licence, source.cost_per_image) == ("by noise@1", 0.25)
    rows = pq.read_table(tmp_path / "out" / MANIFEST).to_pylist()
    prompts = ["a owl", "my cat Tom", "one owl", "my cat Tom"] * 2
    assert [row["prompt"] for row in rows] == prompts
    assert [row["origin"] for row in rows] == [f"{name} #{i}" for i in range(4) for name in ("owl", "cat")]
    for i, row in enumerate(rows):
        assert row["seed"] == image_seed(3, row["class"], i // 2)
        expected = noise(prompts[i], row["seed"])
        assert (source[i]["image"] == expected).all()
        assert row["digest"] == hashlib.sha256(b"P6\n32 24\n255\n" + expected.tobytes()).hexdigest()
        assert row["perceptual_hash"] == perceptual_hash(expected)
        assert [row[key] for key in ("original_width", "original_height", "width", "height")] == [32, 24, 32, 24]
        assert [row[key] for key in ("model", "pipeline", "steps", "guidance")] == ["noise@1", "NoisePipeline", 4, 2.5]
        assert (row["licence"], row["cost"]) == ("by noise@1", 0.25)
    made = json.loads((tmp_path / "out/source.json").read_text())["made"]
    assert made["versions"] == "noise 1"
    assert made["prompts"] == {"owl": ["a owl", "one owl"], "cat": ["my cat Tom"]}


def test_images_are_stored_at_the_size_asked_for(tmp_path):
    run_generation(job(tmp_path / "out", encoding=Encoding(12, "png")), Generator())
    image = open_source(f"arrayrecord:{tmp_path / 'out'}")[0]["image"]
    whole = Image.fromarray(noise("a cat", image_seed(0, "cat", 0)))
    assert (image == np.asarray(whole.resize((16, 12), Image.Resampling.BICUBIC, reducing_gap=3.0))).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_gray_pictures_stay_gray_and_others_become_colour(tmp_path, mode):
    run_generation(job(tmp_path / "out", "cat", per_prompt=1), lambda prompts, _: [Image.fromarray(noise("", 0)).convert(mode)])
    assert open_source(f"arrayrecord:{tmp_path / 'out'}")[0]["image"].shape == (24, 32, 1 if mode == "L" else 3)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 6), (3, 6), (100, 6), (4, 5), (8, 1), (8, 1000)])
def test_batches_and_shards_do_not_change_an_image(tmp_path, batch_size, shard_size):
    run_generation(job(tmp_path / "out", shard_size=shard_size), Generator(), batch_size=batch_size)
    expected = {}
    for name in ("cat", "dog", "owl"):
        for i in range(4):
            expected[f"{name} #{i}"] = noise(("a ", "one ")[i % 2] + name, image_seed(0, name, i)).tobytes()
    assert images(tmp_path / "out") == expected


def test_images_are_the_same_among_other_classes_and_begin_a_longer_source(tmp_path):
    run_generation(job(tmp_path / "few", "owl; cat", per_prompt=2), Generator())
    run_generation(job(tmp_path / "many", "cat; dog; owl", per_prompt=5), Generator())
    run_generation(job(tmp_path / "longer", "owl; cat", per_prompt=5), Generator())
    run_generation(job(tmp_path / "other", "owl; cat", per_prompt=2, seed=1), Generator())
    few = images(tmp_path / "few")
    many = images(tmp_path / "many")
    longer = images(tmp_path / "longer")
    assert few.items() <= many.items()
    assert list(longer.items())[:4] == list(few.items())
    assert not set(images(tmp_path / "other").values()) & set(few.values())


def test_every_shard_is_balanced_where_classes_fit(tmp_path):
    run_generation(job(tmp_path / "out", shard_size=5), Generator())
    rows = pq.read_table(tmp_path / "out" / MANIFEST, columns=["shard", "class"]).to_pylist()
    shards = sorted({row["shard"] for row in rows})
    assert [[row["class"] for row in rows if row["shard"] == shard] for shard in shards] == [["cat", "dog", "owl"]] * 4
    assert shards[1] == "images-000000003-000000005.array_record"


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 5])
def test_stopped_generation_goes_on_to_the_same_files(tmp_path, batches):
    """Six batches of two make two shards of six: an interruption within a shard repeats that shard."""
    whole = job(tmp_path / "whole")
    stopped = job(tmp_path / "stopped")
    run_generation(whole, Generator(), batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run_generation(stopped, Generator(stop_after=batches), batch_size=2)
    kept = count_kept(stopped)
    assert kept == (6 if batches >= 3 else 0)
    assert len(list(stopped.output.glob("*.array_record*"))) == kept // 6
    with pytest.raises(ValueError, match="is unfinished"):
        open_source(f"arrayrecord:{stopped.output}")
    seen = []
    again = Generator()
    run_generation(stopped, again, batch_size=2, on_progress=lambda *numbers: seen.append(numbers))
    assert seen == [(done, 12) for done in range(kept, 13, 2)]
    assert len(again.batches) == 6 - kept // 2
    assert files(stopped.output) == files(whole.output)
    run_generation(stopped, again, batch_size=2)
    assert len(again.batches) == 6 - kept // 2


@pytest.mark.parametrize("per_prompt", [1, 2, 3, 9])
def test_stopped_generation_ends_with_fewer_images_or_continues_to_more(tmp_path, per_prompt):
    output = tmp_path / "out"
    whole = job(tmp_path / "whole", per_prompt=per_prompt)
    run_generation(whole, Generator())
    with pytest.raises(KeyboardInterrupt):
        run_generation(job(output, per_prompt=6), Generator(stop_after=4), batch_size=3)
    assert count_kept(job(output, per_prompt=6)) == 12
    generator = Generator()
    run_generation(job(output, per_prompt=per_prompt), generator)
    assert files(output) == files(whole.output)
    # Whole shards are not made again: of 1 or 3 images of a class, half a shard is.
    assert sum(map(len, generator.batches)) == {1: 3, 2: 0, 3: 3, 9: 15}[per_prompt]
    with pytest.raises(ValueError, match=r"made with other settings \(per_prompt: \d there, 6 now\)"):
        run_generation(job(output, per_prompt=6), Generator())


def test_removed_shards_are_made_again_when_they_are_needed(tmp_path, monkeypatch):
    """A call with fewer images is interrupted after it has removed shards, and a further call wants more images."""
    output = tmp_path / "out"
    whole = job(tmp_path / "whole", per_prompt=6)
    run_generation(whole, Generator())
    with pytest.raises(KeyboardInterrupt):
        run_generation(job(output, per_prompt=6), Generator(stop_after=4), batch_size=3)
    with monkeypatch.context() as patch:
        patch.setattr(generating, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_generation(job(output, per_prompt=2), Generator())
    assert count_kept(job(output, per_prompt=6)) == 6
    run_generation(job(output, per_prompt=6), Generator())
    assert files(output) == files(whole.output)


def test_refused_images_are_listed_and_not_counted(tmp_path):
    black = Image.new("RGB", (32, 24))
    flat = Image.new("L", (32, 24), 127)
    answers = {("a cat", 0): "flagged", ("a dog", 1): black, ("one owl", 0): flat}
    summary = run_generation(job(tmp_path / "out"), Generator(answers), batch_size=5)
    assert (summary.records, summary.refused) == (9, 3)
    reason = "it has a single colour; the reason can be an overflow or a safety checker"
    assert refusals(tmp_path / "out") == {"cat #0": "flagged", "owl #1": reason, "dog #2": reason}
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert np.bincount(source.labels).tolist() == [3, 3, 3]
    # The other images do not depend on the refused ones.
    run_generation(job(tmp_path / "all"), Generator())
    assert images(tmp_path / "out").items() <= images(tmp_path / "all").items()


def test_a_model_that_makes_no_image_is_reported_after_the_first_shard(tmp_path):
    bad = Generator(
        {(f"{word} {name}", n): "nothing" for word in ("a", "one") for name in ("cat", "dog", "owl") for n in (0, 1)}
    )
    with pytest.raises(RuntimeError, match=r"All of the first 6 images were refused; cat #0: nothing\."):
        run_generation(job(tmp_path / "out"), bad)
    # Nothing was made, so that other settings lose nothing.
    run_generation(job(tmp_path / "out", seed=1), Generator())
    with pytest.raises(RuntimeError, match="noise@1 returned 1 images for 6 prompts"):
        run_generation(job(tmp_path / "more"), lambda prompts, seeds: Generator()(prompts[:1], seeds[:1]))


def test_folder_of_other_settings_or_content_is_left_alone(tmp_path):
    output = tmp_path / "out"
    run_generation(job(output), Generator())
    before = files(output)
    for change, message in (
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"shard_size": 7}, "shard_size: 6 there, 7 now"),
        ({"classes": "cat; dog"}, "prompts: .* there, .* now"),
        ({"encoding": Encoding(24, "jpeg")}, "encoding: .*png.* there, .*jpeg.* now"),
    ):
        with pytest.raises(ValueError, match=rf"made with other settings \({message}\); name another output, or delete it"):
            find_generated(job(output, **change))
    with pytest.raises(ValueError, match=r"model: noise@1 there, noise@2 now; steps: 4 there, None now"):
        run_generation(Generation(job(output).prompts, output, Sampling("noise@2", "NoisePipeline", None, 2.5), 4), Generator())
    assert files(output) == before
    with pytest.raises(ValueError, match="is not empty and holds no import"):
        run_import(Import(tmp_path, output), workers=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ValueError, match=r"is not empty and holds no generate\.json"):
        find_generated(job(tmp_path / "mine"))
    with pytest.raises(ValueError, match="is a file"):
        find_generated(job(tmp_path / "mine/file"))
    with locked(tmp_path / "busy"), pytest.raises(ValueError, match="Another process is writing"):
        run_generation(job(tmp_path / "busy"), Generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_prompt": 0}, "at least one image of each class for per_prompt, got 0"),
        ({"shard_size": 0}, "at least one image in a shard, got 0"),
        ({"cost_per_image": float("nan")}, "a number of at least 0 for cost_per_image, got nan"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        job(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match="Expected at least one class for the generated images"):
        Generation({}, tmp_path / "out", SAMPLING, 1)
    with pytest.raises(ValueError, match="at least one image in a batch, got 0"):
        run_generation(job(tmp_path / "out"), Generator(), batch_size=0)
    assert not (tmp_path / "out").exists()


def test_seeds_are_those_of_earlier_versions():
    """A source that a later version makes again has the same noise."""
    assert image_seed(0, "cat", 0) == int.from_bytes(hashlib.blake2b(b"0\0cat\x000", digest_size=8).digest(), "big") // 2
    assert image_seed(0, "cat", 0) == 4596276925438995120


@given(st.sets(st.tuples(st.integers(0, 9), st.text(max_size=3), st.integers(0, 99)), min_size=2, max_size=50))
def test_seeds_differ_and_fit_the_manifest(keys):
    seeds = {image_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert 0 <= min(seeds) <= max(seeds) < 2**63
