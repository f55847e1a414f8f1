"""The adapter of diffusers, on small pipelines that are built here, and the command that generates."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from source_builders import files

# Read when the hub's library is imported: nothing here may be downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"

from sslshift.data import open_source
from sslshift.data.records import diffusion
from sslshift.data.records.encode import Encoding
from sslshift.data.records.generating import Generation, count_kept, run_generation
from sslshift.data.records.prompts import read_prompts
from sslshift.data.sources.manifest import MANIFEST


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


# The following tests need diffusers. Their pipelines have a few channels and random weights, and are saved and loaded.


def tokenizer(folder: Path):
    """Returns a tokenizer of single letters, whose files are in the folder, and the number of its words."""
    import transformers

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=32), len(words)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> Path:
    """A folder of pipelines: `plain`, `checked` (its safety checker flags nothing) and `unconditional`."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    folder = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    # On a busy machine, threads would wait for one another longer than these pipelines compute.
    torch.set_num_threads(1)
    letters, words = tokenizer(folder / "words")
    text = {"vocab_size": words, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
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
        "tokenizer": letters,
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
    """Returns the pixels of six images of 32 x 32 by origin, which a pipeline makes in two steps."""
    model = diffusion.find_model(str(folder), steps=2, device="cpu")
    prompts = read_prompts("cat; dog")
    job_ = Generation(prompts, output, model.sampling, **{"per_prompt": 3, "encoding": Encoding(32, "png")} | changes)
    run_generation(job_, diffusion.load_model(model), batch_size=batch_size)
    source = open_source(f"arrayrecord:{output}")
    rows = pq.read_table(output / MANIFEST).to_pylist()
    return {row["origin"]: source[i]["image"].astype(int) for i, row in enumerate(rows)}


def test_diffusion_images_do_not_depend_on_batches(pipelines, tmp_path):
    """They are equal up to rounding, which 8 bits show as one grey level; see sslshift/data/records/diffusion.py."""
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
    assert files(whole.output) == files(stopped.output)
    assert open_source(f"arrayrecord:{stopped.output}")[0]["image"].shape == (16, 24, 3)


def edited(pipelines: Path, target: Path, edit) -> Path:
    """Returns a copy of a pipeline, with the weights of one part edited."""
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
    # A cosine is always above -2: every image is near the first of the concepts.
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
        with pytest.raises(ValueError, match=r"has its own code|has the class"):
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
        ("plain", {"device": "abacus"}, "Expected a device of this machine, such as cpu or cuda, got 'abacus'"),
    ],
)
def test_pipelines_that_cannot_be_used(pipelines, pipeline, changes, message):
    name = str(pipelines / pipeline) if (pipelines / pipeline).exists() else pipeline
    with pytest.raises(ValueError, match=message):
        diffusion.find_model(name, **changes)


def test_arguments_that_a_pipeline_refuses_are_reported(pipelines, tmp_path):
    generate = diffusion.load_model(diffusion.find_model(str(pipelines / "plain"), height=30, width=32, device="cpu"))
    with pytest.raises(RuntimeError, match=r"made no images of 'a cat': .*divisible by 8"):
        generate(["a cat"], [0])


def test_command_makes_a_source(pipelines, tmp_path):
    """The pipeline is in the hub's cache: no network is needed."""
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
    assert re.fullmatch(r"[\d.,]+ s: .*\n", done.stderr)
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert (len(source), source.classes, source.labels.tolist()) == (4, ("cat", "dog"), [0, 1, 0, 1])
    assert (source[0]["image"].shape, source.cost_per_image) == ((16, 16, 3), 0.01)
    assert source.licence == "generated by nobody/tiny@0123abc; see the model's licence"
    row = pq.read_table(tmp_path / "out" / MANIFEST).to_pylist()[0]
    assert (row["model"], row["steps"], row["guidance"]) == ("nobody/tiny@0123abc", 1, 1.0)
    # Another guidance is refused before the weights are loaded, and the first source stays as it is.
    done = command(*flags, "--guidance=2", HF_HUB_CACHE=str(tmp_path / "hub"))
    require_sentence(done, "was made with other settings (guidance: 1.0 there, 2.0 now)")
