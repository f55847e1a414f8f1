"""Generated sources: the library with a generator of noise, and the diffusers adapter with pipelines built here."""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

# Read when the hub's library is imported: nothing here may be downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"

from sslshift.data import open_source
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.records import diffusion, generating
from sslshift.data.records.encode import Encoding
from sslshift.data.records.folder import locked
from sslshift.data.records.generating import Generation, count_kept, find_generated, run_generation
from sslshift.data.records.importing import Import
from sslshift.data.records.prompts import Sampling, image_seed, read_prompts
from sslshift.data.records.running import run_import
from sslshift.data.sources.labels import class_name
from sslshift.data.sources.manifest import MANIFEST

SAMPLING = Sampling("noise@1", "NoisePipeline", steps=4, guidance=2.5)


def noise(prompt: str, seed: int) -> np.ndarray:
    """uint8 [24, 32, 3], another for every prompt and seed."""
    return np.random.default_rng([seed, zlib.crc32(prompt.encode())]).integers(0, 256, (24, 32, 3), np.uint8)


class Generator:
    """Noise as images, with `answers` in place of the n-th image of a prompt; interrupted after `stop_after` batches."""

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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images(folder: Path) -> dict[str, bytes]:
    """The pixels of a source's images by their origins."""
    origins = pq.read_table(folder / MANIFEST, columns=["origin"]).column("origin").to_pylist()
    source = open_source(f"arrayrecord:{folder}")
    return {origin: source[i]["image"].tobytes() for i, origin in enumerate(origins)}


def refusals(folder: Path) -> dict[str, str]:
    with open(folder / "refused.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_commas_do_not_separate_prompts(tmp_path):
    (tmp_path / "classes.csv").write_text("class,prompt\ncat,a cat\n")
    with pytest.raises(ValueError, match=r"classes\.csv has commas as separators, .*; write class\|prompt"):
        read_prompts(str(tmp_path / "classes.csv"))
    (tmp_path / "classes.csv").write_text("cat|a cat, asleep\ndog\n")
    assert list(read_prompts(str(tmp_path / "classes.csv"))) == ["cat", "dog"]


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
    """Six batches of two in two shards of six: what is interrupted within a shard begins that shard anew."""
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
    assert contents(stopped.output) == contents(whole.output)
    run_generation(stopped, again, batch_size=2)
    assert len(again.batches) == 6 - kept // 2


@pytest.mark.parametrize("per_prompt", [1, 2, 3, 9])
def test_stopped_generation_is_closed_with_fewer_images_or_goes_on_to_more(tmp_path, per_prompt):
    output = tmp_path / "out"
    whole = job(tmp_path / "whole", per_prompt=per_prompt)
    run_generation(whole, Generator())
    with pytest.raises(KeyboardInterrupt):
        run_generation(job(output, per_prompt=6), Generator(stop_after=4), batch_size=3)
    assert count_kept(job(output, per_prompt=6)) == 12
    generator = Generator()
    run_generation(job(output, per_prompt=per_prompt), generator)
    assert contents(output) == contents(whole.output)
    # Whole shards are not made again: of 1 or 3 images of a class, half a shard is.
    assert sum(map(len, generator.batches)) == {1: 3, 2: 0, 3: 3, 9: 15}[per_prompt]
    with pytest.raises(ValueError, match=r"made with other settings \(per_prompt: \d there, 6 now\)"):
        run_generation(job(output, per_prompt=6), Generator())


def test_shards_without_use_are_made_again_when_there_is_use_after_all(tmp_path, monkeypatch):
    """Closing with fewer images is interrupted after their shards were removed, and then more are wanted."""
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
    assert contents(output) == contents(whole.output)


def test_refused_images_are_listed_and_not_counted(tmp_path):
    black = Image.new("RGB", (32, 24))
    flat = Image.new("L", (32, 24), 127)
    answers = {("a cat", 0): "flagged", ("a dog", 1): black, ("one owl", 0): flat}
    summary = run_generation(job(tmp_path / "out"), Generator(answers), batch_size=5)
    assert (summary.records, summary.refused) == (9, 3)
    told = "it has a single colour, as after an overflow or from a safety checker"
    assert refusals(tmp_path / "out") == {"cat #0": "flagged", "owl #1": told, "dog #2": told}
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert np.bincount(source.labels).tolist() == [3, 3, 3]
    # The others are what they are without refusals.
    run_generation(job(tmp_path / "all"), Generator())
    assert images(tmp_path / "out").items() <= images(tmp_path / "all").items()


def test_model_that_makes_no_image_is_told_before_all_is_done(tmp_path):
    bad = Generator(
        {(f"{word} {name}", n): "nothing" for word in ("a", "one") for name in ("cat", "dog", "owl") for n in (0, 1)}
    )
    with pytest.raises(RuntimeError, match=r"All of the first 6 images were refused; cat #0: nothing\."):
        run_generation(job(tmp_path / "out"), bad)
    # Nothing was made, so nothing is lost with other settings.
    run_generation(job(tmp_path / "out", seed=1), Generator())
    with pytest.raises(RuntimeError, match="noise@1 returned 1 images for 6 prompts"):
        run_generation(job(tmp_path / "more"), lambda prompts, seeds: Generator()(prompts[:1], seeds[:1]))


def test_folder_of_other_settings_or_content_is_left_alone(tmp_path):
    output = tmp_path / "out"
    run_generation(job(output), Generator())
    before = contents(output)
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
    assert contents(output) == before
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
    with pytest.raises(ValueError, match="at least one class, each with a prompt"):
        Generation({}, tmp_path / "out", SAMPLING, 1)
    with pytest.raises(ValueError, match="at least one image in a batch, got 0"):
        run_generation(job(tmp_path / "out"), Generator(), batch_size=0)
    assert not (tmp_path / "out").exists()


def test_seeds_are_those_of_earlier_versions():
    """A source that is made again by a later version has the same noise."""
    assert image_seed(0, "cat", 0) == int.from_bytes(hashlib.blake2b(b"0\0cat\x000", digest_size=8).digest(), "big") // 2
    assert image_seed(0, "cat", 0) == 4596276925438995120


@given(st.sets(st.tuples(st.integers(0, 9), st.text(max_size=3), st.integers(0, 99)), min_size=2, max_size=50))
def test_seeds_differ_and_fit_the_manifest(keys):
    seeds = {image_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert 0 <= min(seeds) <= max(seeds) < 2**63


def test_prompts_of_a_list_and_of_a_file(tmp_path):
    assert read_prompts("cat;  big dog ;") == {"cat": ("a photo of a cat",), "big dog": ("a photo of a big dog",)}
    assert read_prompts("dog.txt;", ["{}"]) == {"dog.txt": ("dog.txt",)}
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeff# animals\r\n\r\ncat\r\ndog\ta dog; asleep\r\ndog | {} of a dog|s\r\n  # end\r\nÖl".encode())
    assert read_prompts(str(file), ["a {}", "{} and {}"]) == {
        "cat": ("a cat", "cat and cat"),
        "dog": ("a dog; asleep", "{} of a dog|s"),
        "Öl": ("a Öl", "Öl and Öl"),
    }


# As sources spell names of classes; see test_class_names.py.
names = (
    st.text(st.characters(exclude_characters=";|\t#{}\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
    .map(str.strip)
    .map(class_name)
)


@given(st.lists(names.filter(bool), min_size=1, max_size=30, unique=True), st.integers(1, 3))
def test_every_class_gets_every_template(tmp_path_factory, classes, count):
    templates = [f"{i} {{}}." for i in range(count)]
    expected = {name: tuple(f"{i} {name}." for i in range(count)) for name in classes}
    assert read_prompts(";" + ";".join(classes), templates) == expected
    assert list(read_prompts(";".join(classes) + ";", templates)) == classes


@pytest.mark.parametrize(
    ("text", "templates", "message"),
    [
        ("cat; dog; cat", ["{}"], "The prompts: the class 'cat' occurs twice"),
        ("cat|a cat; cat|a cat", ["{}"], "the class 'cat' occurs twice"),
        ("cat|a cat; cat", ["a {}"], "the class 'cat' occurs twice"),
        ("", ["{}"], "The prompts: expected class names"),
        (" ; ;", ["{}"], "expected class names"),
        ("|a cat", ["{}"], "lacks its class name or its prompt"),
        ("cat|", ["{}"], "lacks its class name or its prompt"),
        ("cat", ["a photo"], "got 'a photo'"),
        ("cat", [], "Expected a template"),
        ("no/such.txt", ["{}"], "There is no text file no/such.txt"),
        ("FOLDER", ["{}"], "There is no text file"),
        ("FOLDER/empty.txt", ["{}"], "expected class names"),
        ("FOLDER/latin.txt", ["{}"], r"latin\.txt cannot be read as a text file in UTF-8"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path, text, templates, message):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes("Öl".encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_prompts(text.replace("FOLDER", str(tmp_path)), templates)


def command(*flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tools.generate_images", *flags],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def require_sentence(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts=cat;cat"], "occurs twice"),
        (["--prompts=cat", "--size=4"], "at least 8 pixels"),
        (["--prompts=cat", "--steps=-1"], "steps"),
        (["--prompts=cat", "--promts=4"], "prompts"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(tmp_path, flags, message):
    require_sentence(command(f"--output={tmp_path / 'out'}", "--pipeline=no/such/folder", *flags), message)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is not None, reason="needs an environment without diffusers")
def test_command_names_the_extra_to_install(tmp_path):
    done = command(f"--output={tmp_path / 'out'}", "--pipeline=no/such/folder", "--prompts=cat")
    require_sentence(done, 'pip install -e ".[generate]"')
    assert not (tmp_path / "out").exists()


# From here on with diffusers: pipelines of a few channels with random weights, saved and loaded as any other.


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> Path:
    """A folder of pipelines: `plain`, `checked` (its safety checker flags nothing) and `unconditional`."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    folder = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    # Beside other work, threads wait for one another longer than these pipelines compute.
    torch.set_num_threads(1)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "words").mkdir()
    (folder / "words/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "words/merges.txt").write_text("#version: 0.2\n")
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": 52,
        "eos_token_id": 53,
        "pad_token_id": 53,
    }
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen |= {"image_size": 32, "patch_size": 16}
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    parts = {
        "vae": diffusers.AutoencoderKL(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            sample_size=32,
            **blocks,
        ),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "words", model_max_length=32),
        "unet": diffusers.UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **blocks,
        ),
        # Adds noise in every step, so that each image's own random numbers matter beyond the first.
        "scheduler": diffusers.DDPMScheduler(steps_offset=1, clip_sample=False),
    }
    absent = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    diffusers.StableDiffusionPipeline(**parts, **absent).save_pretrained(folder / "plain", safe_serialization=True)
    checker = StableDiffusionSafetyChecker(transformers.CLIPConfig(text_config=text, vision_config=seen, projection_dim=16))
    extractor = transformers.CLIPImageProcessor(size=32, crop_size=32)
    checked = diffusers.StableDiffusionPipeline(**parts, safety_checker=checker, feature_extractor=extractor)
    checked.save_pretrained(folder / "checked", safe_serialization=True)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder / "unconditional", safe_serialization=True)
    return folder


def generated(folder: Path, output: Path, batch_size: int, **changes) -> dict[str, np.ndarray]:
    """Pixels by origin of six images of 32 x 32 by a pipeline in two steps."""
    model = diffusion.find_model(str(folder), steps=2, device="cpu")
    prompts = read_prompts("cat; dog")
    job_ = Generation(prompts, output, model.sampling, **{"per_prompt": 3, "encoding": Encoding(32, "png")} | changes)
    run_generation(job_, diffusion.load_model(model), batch_size=batch_size)
    source = open_source(f"arrayrecord:{output}")
    rows = pq.read_table(output / MANIFEST).to_pylist()
    return {row["origin"]: source[i]["image"].astype(int) for i, row in enumerate(rows)}


def test_diffusion_images_do_not_depend_on_batches(pipelines, tmp_path):
    """Up to rounding, which the pipeline's 8 bits show as one gray level; see sslshift/data/records/diffusion.py."""
    threes, ones = (generated(pipelines / "plain", tmp_path / str(size), size) for size in (3, 1))
    again = generated(pipelines / "plain", tmp_path / "again", 3, shard_size=3)
    other = generated(pipelines / "plain", tmp_path / "other", 3, seed=1)
    assert list(threes) == ["cat #0", "dog #0", "cat #1", "dog #1", "cat #2", "dog #2"]
    for origin, image in threes.items():
        assert image.shape == (32, 32, 3)
        assert np.abs(image - ones[origin]).max() <= 1
        assert np.abs(image - again[origin]).max() <= 1
        assert np.abs(image - other[origin]).max() > 20
    assert np.abs(threes["cat #0"] - threes["cat #1"]).max() > 20


def test_diffusion_images_are_those_of_the_pipeline_itself(pipelines, tmp_path):
    import torch
    from diffusers import StableDiffusionPipeline

    image = generated(pipelines / "plain", tmp_path / "out", 1, per_prompt=1)["dog #0"]
    pipeline = StableDiffusionPipeline.from_pretrained(pipelines / "plain")
    rows = pq.read_table(tmp_path / "out" / MANIFEST).to_pylist()
    assert [rows[1][key] for key in ("prompt", "pipeline", "steps", "guidance")] == [
        "a photo of a dog", "StableDiffusionPipeline", 2, 7.5,
    ]  # fmt: skip
    random = torch.Generator("cpu").manual_seed(rows[1]["seed"])
    expected = pipeline("a photo of a dog", num_inference_steps=2, generator=random).images[0]
    assert np.abs(np.asarray(expected).astype(int) - image).max() <= 1


def test_stopped_diffusion_goes_on_to_the_same_files(pipelines, tmp_path):
    model = diffusion.find_model(str(pipelines / "plain"), steps=2, height=16, width=24, device="cpu")
    assert model.options == {"num_inference_steps": 2, "height": 16, "width": 24}
    generate = diffusion.load_model(model)
    calls = []

    def interrupted(*batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(*batch)

    prompts = read_prompts("cat; dog")
    whole, stopped = (
        Generation(prompts, tmp_path / name, model.sampling, 4, encoding=Encoding(16), shard_size=4)
        for name in ("whole", "stopped")
    )
    run_generation(whole, generate, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run_generation(stopped, interrupted, batch_size=2)
    assert count_kept(stopped) == 4
    run_generation(stopped, interrupted, batch_size=2)
    assert len(calls) == 6
    assert contents(whole.output) == contents(stopped.output)
    assert open_source(f"arrayrecord:{stopped.output}")[0]["image"].shape == (16, 24, 3)


def edited(pipelines: Path, target: Path, edit) -> Path:
    """A copy of a pipeline whose safetensors of one part are edited in place."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(pipelines, target)
    part, name, change = edit
    (path,) = (target / part).glob("*.safetensors")
    weights = load_file(path)
    weights[name] = change(weights[name])
    save_file(weights, path, metadata={"format": "pt"})
    return target


def test_images_that_the_safety_checker_flags_are_refused(pipelines, tmp_path):
    asked = ["a photo of a cat", "a photo of a dog"], [1, 2]
    passed = diffusion.load_model(diffusion.find_model(str(pipelines / "checked"), steps=2, device="cpu"))(*asked)
    # A cosine is above -2 always: every image is near to the first of the concepts.
    strict = edited(
        pipelines / "checked",
        tmp_path / "strict",
        ("safety_checker", "concept_embeds_weights", lambda weights: np.concatenate([[np.float32(-2)], weights[1:]])),
    )
    model = diffusion.find_model(str(strict), steps=2, device="cpu")
    assert [image.size for image in passed] == [(32, 32)] * 2
    assert diffusion.load_model(model)(*asked) == ["the pipeline's safety checker flagged it"] * 2


def test_values_that_are_not_finite_are_refused(pipelines, tmp_path):
    broken = edited(pipelines / "plain", tmp_path / "nan", ("vae", "decoder.conv_out.bias", lambda bias: bias * np.nan))
    model = diffusion.find_model(str(broken), steps=1, device="cpu")
    (reason,) = diffusion.load_model(model)(["a cat"], [0])
    assert "not finite" in reason


def test_model_that_changed_is_another_model(pipelines, tmp_path):
    before = diffusion.find_model(str(pipelines / "plain")).sampling.model
    assert before.startswith(f"{pipelines / 'plain'}@")
    (same := tmp_path / "same").mkdir()
    shutil.copytree(pipelines / "plain", same / "plain")
    (same / "plain/README.md").write_text("a readme")
    assert diffusion.find_model(str(same / "plain")).sampling.model.rpartition("@")[2] == before.rpartition("@")[2]
    # One weight of another value, in a file of the same size.
    trained = edited(
        pipelines / "plain", tmp_path / "new", ("unet", "conv_in.bias", lambda bias: bias + np.eye(1, 8, dtype="f4")[0])
    )
    sizes = [[path.stat().st_size for path in sorted(each.rglob("*.safetensors"))] for each in (pipelines / "plain", trained)]
    assert sizes[0] == sizes[1]
    assert diffusion.find_model(str(trained)).sampling.model.rpartition("@")[2] != before.rpartition("@")[2]


def test_pickled_weights_and_python_files_are_not_loaded(pipelines, tmp_path):
    import torch
    from safetensors.torch import load_file

    for part, name in (("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
        # Good weights: only their form is refused.
        folder = shutil.copytree(pipelines / "plain", tmp_path / part)
        (path,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(path), folder / part / name)
        path.unlink()
        with pytest.raises(ValueError, match="cannot be loaded; it needs weights in safetensors files"):
            diffusion.load_model(diffusion.find_model(str(folder), device="cpu"))
    sprung = tmp_path / "sprung"
    code = f"from pathlib import Path; Path({str(sprung)!r}).touch()"
    for case, entry in (("own", ["mine", "Net"]), ("shadow", ["diffusers", "Net"]), ("class", None)):
        folder = tmp_path / case
        shutil.copytree(pipelines / "plain", folder)
        index = json.loads((folder / "model_index.json").read_text())
        index |= {"unet": entry} if entry else {"_class_name": ["pipeline", "MyPipeline"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "pipeline.py").write_text(code)
        (folder / f"unet/{entry[0] if entry else 'mine'}.py").write_text(code)
        with pytest.raises(ValueError, match=r"code of its own|is of the class"):
            diffusion.find_model(str(folder))
    assert not sprung.exists()


def test_path_never_leads_to_the_network(pipelines, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a connection to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(generated(pipelines / "plain", tmp_path / "out", 2, per_prompt=1)) == 2


@pytest.mark.parametrize(
    ("pipeline", "changes", "message"),
    [
        ("unconditional", {}, r"is a DDPMPipeline, which takes no prompt; name a text-to-image pipeline\."),
        ("/no/such/folder", {}, "There is no folder /no/such/folder; name the folder of a pipeline, or"),
        ("./no", {}, r"There is no folder \./no; name"),
        (
            "nobody/nothing",
            {},
            "There is no folder nobody/nothing, and no pipeline of this name .* check the name",
        ),
        (
            "plain/unet",
            {},
            r"Expected a pipeline of diffusers, as .*, in .*plain/unet: model_index\.json",
        ),
        ("plain", {"device": "abacus"}, "There is no device 'abacus' to compute on"),
    ],
)
def test_pipelines_that_cannot_be_used(pipelines, pipeline, changes, message):
    name = str(pipelines / pipeline) if (pipelines / pipeline).exists() else pipeline
    with pytest.raises(ValueError, match=message):
        diffusion.find_model(name, **changes)


def test_what_a_pipeline_does_not_take_is_told(pipelines, tmp_path):
    generate = diffusion.load_model(diffusion.find_model(str(pipelines / "plain"), height=30, width=32, device="cpu"))
    with pytest.raises(RuntimeError, match=r"made no images of 'a cat': .*divisible by 8"):
        generate(["a cat"], [0])


def test_command_makes_a_source(pipelines, tmp_path):
    """Of a pipeline in the hub's cache, without a network."""
    cached = tmp_path / "hub/models--nobody--tiny"
    shutil.copytree(pipelines / "plain", cached / "snapshots/0123abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123abc")
    flags = [
        f"--output={tmp_path / 'out'}", "--prompts=cat; dog", "--pipeline=nobody/tiny", "--steps=1", "--per_prompt=2",
        "--batch_size=3", "--size=16", "--guidance=1", "--encoding=webp", "--cost_per_image=0.01", "--device=cpu",
    ]  # fmt: skip
    done = command(*flags, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Loading nobody/tiny@0123abc for cpu in float32.\n4 images of 2 classes in 1 shards")
    assert done.stderr == ""
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert (len(source), source.classes, source.labels.tolist()) == (4, ("cat", "dog"), [0, 1, 0, 1])
    assert (source[0]["image"].shape, source.cost_per_image) == ((16, 16, 3), 0.01)
    assert source.licence == "generated by nobody/tiny@0123abc; see the model's licence"
    row = pq.read_table(tmp_path / "out" / MANIFEST).to_pylist()[0]
    assert (row["model"], row["steps"], row["guidance"]) == ("nobody/tiny@0123abc", 1, 1.0)
    # Another guidance is another source, told before the weights are loaded; the first one is unharmed.
    done = command(*flags, "--guidance=2", HF_HUB_CACHE=str(tmp_path / "hub"))
    require_sentence(done, "was made with other settings (guidance: 1.0 there, 2.0 now)")
