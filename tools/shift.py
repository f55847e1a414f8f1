r"""How far is it? Sources of images against yours, before any training: an index from 0 (more of the same) to 1 (noise).

    python -m tools.shift --target=folder:/data/parts --source=folder:/data/near --source="web = arrayrecord:/data/web" --html
    python -m tools.shift --target=... --source="near = folder:/data/near" --source="web = folder:/data/web" \
      --mixture="mostly near = 0.7*near + 0.3*web" --encoder=dinov2-small.safetensors

Prints sources ordered by the index with intervals, a reading of it, and raw distances beside; OUT gets `table.md`, `shift.csv`,
`shift.json`, and with --html the page `shift.html` with the nearest and the farthest images, a map, and a profile over layers.
Features are kept in OUT: another source later costs only its own images. Without --encoder an untrained network is used, which
sees texture and colour alone: the page and the tables say so.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.sources.base import printable
from sslshift.models.opening import HOW_TO_SAY
from sslshift.shift.distances import DISTANCES, distance_of
from sslshift.shift.index import DEFAULT_DISTANCE
from sslshift.shift.reading import reading
from sslshift.shift.survey import Survey, common_images, survey
from sslshift.study.environment import versions
from sslshift.study.records import write_atomically
from sslshift.transfer.encoders import UNTRAINED, encoder_named
from tools import shift_output as output
from tools.shift_declared import TARGET, Declared, Planned, parse_mixtures, parse_source, parse_sources
from tools.shift_files import as_csv, as_json, markdown, show
from tools.shift_inputs import Encoded, Look, choose_canvas, mix, open_images
from tools.shift_page import page
from tools.shift_work import Work

_SETTINGS = ("target", "source", "mixture", "encoder", "images", "image_size", "distance", "distances", "seed")
_BESIDE = "kernel,frechet,rbf_mmd,visual_dna,sliced_wasserstein,proxy_a"

FLAGS = flags.FLAGS
flags.DEFINE_string("target", None, "Your images: a URI such as folder:/data/parts.", required=True)
flags.DEFINE_multi_string("source", None, "Images to judge: 'URI' or 'NAME = URI'; may be given many times.", required=True)
flags.DEFINE_multi_string("mixture", [], "A planned mixture of sources by share: 'NAME = 0.7*near + 0.3*web'; many times.")
flags.DEFINE_string(
    "encoder",
    UNTRAINED,
    "What sees the images: a .safetensors or .npz file of a published encoder (python -m tools.fetch_encoder), a finished run "
    f"or an encoder of ours, pixels, untrained (a small conv net), or untrained:NAME. {HOW_TO_SAY}",
)
flags.DEFINE_integer("images", 2000, "Images of each source and of the target at most, drawn by the seed.", lower_bound=20)
flags.DEFINE_integer(
    "image_size",
    0,
    "Side in pixels that images are brought to; 0: what the encoder takes, or the target's, up to 64.",
    lower_bound=0,
    upper_bound=4096,
)
flags.DEFINE_string("distance", DEFAULT_DISTANCE, f"The distance behind the index: {', '.join(DISTANCES)}.")
flags.DEFINE_string("distances", _BESIDE, "Raw distances shown beside it, separated by commas, or none.")
flags.DEFINE_integer(
    "seed", 0, "Of all draws, and of an untrained network's weights.", lower_bound=0, upper_bound=(1 << 63) - 1
)
flags.DEFINE_boolean("html", False, "Also write the page OUT/shift.html.")
flags.DEFINE_string("out", "results/shift", "Folder for results and kept features.")


def main() -> None:
    out = _folder(FLAGS.out)
    beside = [] if FLAGS.distances in ("", "none") else [name.strip() for name in FLAGS.distances.split(",")]
    for name in (FLAGS.distance, *beside):
        distance_of(name)
    declared = parse_sources(FLAGS.source)
    planned = parse_mixtures(FLAGS.mixture, [each.name for each in declared])
    named = encoder_named(FLAGS.encoder, seed=FLAGS.seed)
    console = Console(emoji=False, width=None if Console().is_terminal else 100)

    own = open_images(parse_source(FLAGS.target, "--target")._replace(name=TARGET), FLAGS.images, FLAGS.seed)
    failed: dict[str, str] = {}
    opened = _each(declared, lambda each: open_images(each, FLAGS.images, FLAGS.seed), failed)
    canvas = choose_canvas(named, own.look, FLAGS.image_size)
    work = Work(named, named.build(canvas), canvas, out, FLAGS.seed, console)
    target = work.encoded(own)
    noise = work.noise(target)
    sets = _each([images.declared for images in opened.values()], lambda each: work.encoded(opened[each.name], target), failed)
    looks = {TARGET: own.look} | {name: images.look for name, images in opened.items()}
    found = _survey(target, noise.features, sets, planned, failed, beside, console)
    _write(found, sets, target, work, noise, looks, console)
    if found.failed:
        raise RuntimeError(f"{len(found.failed)} of {len(found.failed) + len(found.measured)} sources could not be measured.")


def _folder(text: str) -> Path:
    """The folder of results, if it can be written to: that is told before hours of work."""
    out = Path(text).expanduser()
    there = next(path for path in (out, *out.parents) if os.path.exists(path))
    if not text or not there.is_dir():
        raise ValueError(f"--out={text} is {f'a file ({there})' if text else 'empty'}; name a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out={text} cannot be written to: {there} allows no new files.")
    return out


def _each(declared: Sequence[Declared], do: Callable[[Declared], Any], failed: dict[str, str]) -> dict[str, Any]:
    """What `do` makes of every source, by name; why it does not is added to `failed`.

    Raises:
      ValueError: it does of none.
    """
    done = {}
    for each in declared:
        try:
            done[each.name] = do(each)
        except (ValueError, OSError) as error:
            # What the others gave stays worth having.
            failed[each.name] = printable(str(error))
    if not done:
        name, why = next(iter(failed.items()))
        raise ValueError(why if len(failed) == 1 else f"None of the {len(failed)} sources can be measured; {name}: {why}")
    return done


def _survey(
    target: Encoded,
    noise: np.ndarray,
    sets: dict[str, Encoded],
    planned: list[Planned],
    failed: dict[str, str],
    beside: list[str],
    console: Console,
) -> Survey:
    """The survey of sources and mixtures; those are added to `sets`."""
    count = common_images([len(target.features), len(noise)], [len(each.features) for each in sets.values()], FLAGS.distance)
    for each in planned:
        try:
            sets[each.name] = mix(each, sets, count)
        except ValueError as error:
            failed[each.name] = str(error)
    with console.status("") as status:
        found = survey(
            target.features,
            noise,
            {name: each.features for name, each in sets.items()},
            key=jax.random.key(FLAGS.seed),
            distance=FLAGS.distance,
            distances=beside,
            on_source=lambda name: status.update(f"measuring {name}"),
        )
    return dataclasses.replace(found, failed=failed | found.failed)


def _write(
    found: Survey,
    sets: dict[str, Encoded],
    target: Encoded,
    work: Work,
    noise: Encoded,
    looks: dict[str, Look],
    console: Console,
) -> None:
    """Shows and writes all that was found."""
    trained = work.named.trained
    introduction = _introduction(found, target, work, looks)
    sentences = reading(found)
    small = output.notes(found, trained)
    warnings = output.remarks(found, sets, target)
    tables = {
        "How far from the target": output.main_table(found, sets),
        "Raw distances": output.raw_table(found),
        "What else tells sources apart": output.diversity_table(found, sets, target),
    }
    tables = {title: lines for title, lines in tables.items() if lines}
    for line in introduction:
        say(console, line)
    for title, lines in tables.items():
        console.print()
        show(console, lines, title, whole=lines is tables["How far from the target"])
    console.print()
    for line in [*warnings, *sentences]:
        say(console, f"- {line}")
    console.print()
    for line in small:
        say(console, line, style="dim")
    work.out.mkdir(parents=True, exist_ok=True)
    text = markdown(list(tables.values()), [*introduction, *warnings, *sentences], small)
    values = {name: FLAGS[name].value for name in _SETTINGS}
    settings = {
        name: [*map(printable, value)] if isinstance(value, list) else printable(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    record = as_json(found, sets, target) | {
        "encoder": {"title": work.named.title, "remark": work.named.remark, "card": work.named.card},
        "canvas": list(work.canvas),
        "settings": settings,
        "versions": versions(),
        "reading": [*warnings, *sentences],
    }
    files = {
        "table.md": text,
        "shift.csv": as_csv(found, sets),
        "shift.json": json.dumps(record, indent=2, default=str) + "\n",
    }
    for name, content in files.items():
        write_atomically(work.out / name, content)
    if FLAGS.html:
        files["shift.html"] = page(
            found,
            sets,
            target,
            about=introduction,
            answer=sentences,
            warnings=warnings,
            tables=tables,
            notes=small,
            layers=work.layers(found, sets, target, noise),
            settings=[["flag", "value"], *([f"--{name}", str(value)] for name, value in settings.items())],
        )
        write_atomically(work.out / "shift.html", files["shift.html"])
    say(console, f"wrote {', '.join(str(work.out / name) for name in files)}")


def _introduction(found: Survey, target: Encoded, work: Work, looks: dict[str, Look]) -> list[str]:
    about = target.about
    named = work.named
    lines = [
        f"Target: {about['uri']}, {about['used']:,} of {about['images']:,} images. Encoder: {named.title}, "
        f"{target.features.shape[1]:,} features. Index by the {distance_of(found.distance).title} distance at "
        f"{found.sample_size:,} images a side.",
        *filter(None, [named.remark, named.read]),
        *output.about_images(looks, work.canvas),
    ]
    learned = [
        uri
        for uri in named.card.get("sources", {})
        if uri in [target.about["uri"], *(parse_source(s).uri for s in FLAGS.source)]
    ]
    if learned:
        lines.append(
            f"The encoder was trained on {', '.join(learned)}: take one that neither side trained, or judge these with care."
        )
    return lines


def say(console: Console, text: str, style: str = "") -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal, style=style)


if __name__ == "__main__":
    run_command(main)
