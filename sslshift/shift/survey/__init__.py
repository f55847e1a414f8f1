"""Surveys: distances of several sources of images from a target, before any training. The command is `python -m tools.shift`.

`run_survey` opens and encodes the images (`inputs`), measures every source (`measure`), and returns a `SurveyReport`, which has
sentences (`sentences`) and tables (`report`) and writes its files, the page (`page`) among them.

To change:
  a number that is measured: `measure.py`.
  a table, a note, a warning, or a file: `report.py`.
  the answer, or a sentence about the order of the sources: `sentences.py`.
  the page: `page.html` for its text, `page.py` for its charts.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
from rich.console import Console

from sslshift.data.source_text import NamedUri, parse_named_sources, parse_source
from sslshift.data.sources.base import printable
from sslshift.reporting import Table, print_table, say
from sslshift.reporting.environment import versions
from sslshift.shift.distances import distance_of, index_distance
from sslshift.shift.index import require_far_end
from sslshift.shift.survey.inputs import (
    Counting,
    Encoded,
    Extractor,
    ImageLook,
    NoiseFeatures,
    PlannedMixture,
    SourceImages,
    choose_canvas,
    mix,
    open_images,
    parse_mixtures,
)
from sslshift.shift.survey.measure import Measured, RawDistance, Survey, common_images, layer_profiles, measure
from sslshift.shift.survey.report import (
    FLOOR,
    REFERENCE,
    about_images,
    as_csv,
    as_json,
    diversity_table,
    main_table,
    notes,
    raw_table,
    remarks,
)
from sslshift.shift.survey.sentences import SUPERFICIAL, answer, reading
from sslshift.storage import Store, digest, slug, write
from sslshift.transfer.encoders import encoder_named

__all__ = ["Measured", "RawDistance", "Survey", "SurveyReport", "SurveySettings", "run_survey"]

# Name in tables of the images that all sources are compared with.
TARGET = "the target"

_Done = TypeVar("_Done")


@dataclasses.dataclass(frozen=True)
class SurveySettings:
    """Settings of a survey; the fields are the flags of `python -m tools.shift`, whose help describes them."""

    target: str
    source: Sequence[str]
    mixture: Sequence[str]
    encoder: str
    images: int
    image_size: int
    distance: str
    far_end: str
    distances: str
    seed: int
    out: str

    @property
    def record(self) -> dict[str, object]:
        """Returns the settings for a JSON file and the page; the folder of results does not change the results."""
        values = dataclasses.asdict(self)
        # Two calls that differ in the folder alone write the same files.
        del values["out"]
        return {
            name: [*map(printable, value)] if isinstance(value, list) else printable(value) if isinstance(value, str) else value
            for name, value in values.items()
        }

    @property
    def beside(self) -> list[str]:
        """Returns the names of the raw distances."""
        return [] if self.distances in ("", "none") else [name.strip() for name in self.distances.split(",")]


@dataclasses.dataclass(frozen=True, eq=False)
class SurveyReport:
    """Result of a survey, for people.

    Attributes:
      found: the survey.
      answer: the answer in one sentence, and the thresholds behind it.
      introduction: sentences about the compared sets and the encoder.
      warnings: sentences about limits of the result.
      reading: sentences about the order and the distance of the sources.
      tables: distance, which belongs to the answer, raw distances, and diversity.
      notes: sentences about how to read the tables.
    """

    found: Survey
    answer: list[str]
    introduction: list[str]
    warnings: list[str]
    reading: list[str]
    tables: list[Table]
    notes: list[str]
    _settings: SurveySettings
    _work: Extractor
    _sets: Mapping[str, Encoded]
    _target: Encoded
    _noise: NoiseFeatures

    def show(self, console: Console) -> None:
        """Prints the report: first what a reader needs who stops after one screen, the answer, its table and its limits."""
        first, *others = self.tables
        for line in self.answer:
            say(console, line)
        console.print()
        print_table(first, console)
        console.print()
        for line in [*self.warnings, *self.reading]:
            say(console, f"- {line}")
        for table in others:
            console.print()
            print_table(table, console)
        console.print()
        for line in [*self.introduction, *self.notes]:
            say(console, line, style="dim")

    def write(self, *, html: bool) -> list[Path]:
        """Writes `table.md`, `shift.csv`, `shift.json`, and perhaps the page `shift.html`; returns their paths.

        Args:
          html: whether to write the page, for which all images pass the encoder twice more.
        """
        out = self._work.out
        out.mkdir(parents=True, exist_ok=True)
        files = {
            "table.md": self._markdown(),
            "shift.csv": as_csv(self.found, self._sets),
            "shift.json": json.dumps(self._record(), indent=2, default=str) + "\n",
        }
        # Layers may take long or fail: the other results are written first.
        for name, content in files.items():
            write(out / name, content)
        if html:
            files["shift.html"] = self._page()
            write(out / "shift.html", files["shift.html"])
        return [out / name for name in files]

    def _markdown(self) -> str:
        first, *others = (table.markdown for table in self.tables)
        parts = [_bullets(self.answer), first, _bullets([*self.warnings, *self.reading]), *others]
        return "\n".join([*parts, _bullets([*self.introduction, *self.notes])])

    def _record(self) -> dict[str, object]:
        named = self._work.named
        return as_json(self.found, self._sets, self._target) | {
            "encoder": {"title": named.title, "remark": named.remark, "card": named.card},
            "canvas": list(self._work.canvas),
            "settings": self._settings.record,
            "versions": versions(),
            "answer": self.answer,
            "reading": [*self.warnings, *self.reading],
        }

    def _page(self) -> str:
        # Only pages need matplotlib, which takes a second to import.
        from sslshift.shift.survey.page import PageTexts, page

        settings = [(f"--{name}", str(value)) for name, value in self._settings.record.items()]
        return page(
            self.found,
            self._sets,
            self._target,
            texts=PageTexts(self.answer, self.warnings, self.reading, [*self.introduction, *self.notes]),
            tables=self.tables,
            trained=self._work.named.trained,
            layers=layer_profiles(self._work, list(self.found.measured), self._sets, self._target, self._noise),
            settings=Table("settings", "Settings", ("flag", "value"), settings, text_columns=2),
        )


def run_survey(settings: SurveySettings, counting: Counting, on_source: Callable[[str], None]) -> SurveyReport:
    """Compares sources and planned mixtures with a target.

    Args:
      settings: settings of the survey.
      counting: shows progress while images are encoded.
      on_source: called with each source's name before it is measured.

    Raises:
      ValueError: a setting is wrong, or no source can be measured. Single sources that fail are reported as such.
    """
    # All settings are checked before the first image is encoded.
    out = _folder(settings.out)
    _require_known(settings)
    declared = parse_named_sources(settings.source, reserved=[TARGET, FLOOR, REFERENCE])
    planned = parse_mixtures(settings.mixture, declared)
    named = encoder_named(settings.encoder, seed=settings.seed)
    own = open_images(parse_source(settings.target, "--target")._replace(name=TARGET), settings.images, settings.seed)
    # All sources that can be measured are measured; the reasons why others cannot are collected and reported.
    failed: dict[str, str] = {}
    opened = _each(declared, lambda each: open_images(each, settings.images, settings.seed), failed)
    canvas = choose_canvas(named, own.look, settings.image_size)
    work = Extractor(named, named.build(canvas), canvas, out, settings.seed, counting)
    target = work.encoded(own)
    noise = work.noise(target)
    finder = work.finder(target)
    sets = _each([images.declared for images in opened.values()], lambda each: work.encoded(opened[each.name], finder), failed)
    sets |= _mixtures(planned, sets, [len(target.features), len(noise.features)], settings.distance, failed)
    found = measure(
        target.features,
        noise.features,
        {name: each.features for name, each in sets.items()},
        key=jax.random.key(settings.seed),
        distance=settings.distance,
        distances=settings.beside,
        far_end=settings.far_end,
        on_source=on_source,
        remember=lambda name, record, compute: Store().remembered(_place(out, name, record), record, compute),
    )
    # Sources that could not be opened come before those that could not be measured, as in the order of work.
    found = dataclasses.replace(found, failed=failed | found.failed)
    # In the order of their importance: a reader may stop after the first.
    tables = [main_table(found, sets), raw_table(found), diversity_table(found, sets, target)]
    seen = "" if named.trained else SUPERFICIAL
    return SurveyReport(
        found,
        answer(found, seen),
        _introduction(found, target, work, own, opened),
        # The limits of the encoder come first: they concern every sentence.
        [*filter(None, [named.remark]), *remarks(found, sets, target)],
        reading(found, seen),
        [table for table in tables if table],
        notes(found, named.trained),
        settings,
        work,
        sets,
        target,
        noise,
    )


def _place(out: Path, name: str, record: Mapping[str, object]) -> Path:
    """Returns the folder of a source's numbers."""
    return out / "measured" / f"{slug(name)}-{digest(record)}"


def _require_known(settings: SurveySettings) -> None:
    """Raises ValueError if a setting names a distance or a far end that does not exist."""
    index_distance(settings.distance)
    require_far_end(settings.far_end)
    for name in settings.beside:
        distance_of(name)


def _folder(text: str) -> Path:
    """Returns the folder of results; raises ValueError before hours of work if it cannot be written to."""
    out = Path(text).expanduser()
    # The folder need not exist yet: the nearest one that exists decides whether it can be made.
    there = next(path for path in (out, *out.parents) if os.path.exists(path))
    if not text or not there.is_dir():
        raise ValueError(f"--out={text} is {f'a file ({there})' if text else 'empty'}; name a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out={text} cannot be written to: {there} allows no new files.")
    return out


def _each(declared: Sequence[NamedUri], do: Callable[[NamedUri], _Done], failed: dict[str, str]) -> dict[str, _Done]:
    """Returns the result of `do` for every source by name; if it fails for a source, adds the reason to `failed`.

    Raises:
      ValueError: it fails for all sources.
    """
    done = {}
    for each in declared:
        try:
            done[each.name] = do(each)
        except (ValueError, OSError) as error:
            # The results of the other sources are still useful.
            failed[each.name] = printable(str(error))
    if not done:
        name, why = next(iter(failed.items()))
        raise ValueError(why if len(failed) == 1 else f"None of the {len(failed)} sources can be measured; {name}: {why}")
    return done


def _mixtures(
    planned: Sequence[PlannedMixture],
    sets: Mapping[str, Encoded],
    needed: Sequence[int],
    distance: str,
    failed: dict[str, str],
) -> dict[str, Encoded]:
    """Returns the planned mixtures that can be made of the sources; adds the reason to `failed` for the others."""
    count = common_images(needed, [len(each.features) for each in sets.values()], distance)
    mixed = {}
    for each in planned:
        try:
            mixed[each.name] = mix(each, sets, count)
        except ValueError as error:
            failed[each.name] = str(error)
    return mixed


def _bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {each}\n" for each in sentences)


def _introduction(
    found: Survey, target: Encoded, work: Extractor, own: SourceImages, opened: Mapping[str, SourceImages]
) -> list[str]:
    about = target.about
    named = work.named
    looks: dict[str, ImageLook] = {TARGET: own.look} | {name: images.look for name, images in opened.items()}
    lines = [
        f"Target: {about.uri}, {about.used:,} of {about.images:,} images. Encoder: {named.title}, "
        f"{target.features.shape[1]:,} features. Index by the {distance_of(found.distance).title} distance on "
        f"{found.images:,} images of each source.",
        *filter(None, [named.read]),
        *about_images(looks, work.canvas),
    ]
    compared = {about.uri, *(images.declared.uri for images in opened.values())}
    learned = [uri for uri in named.card.get("sources", {}) if uri in compared]
    if learned:
        lines.append(
            f"The encoder was trained on {', '.join(learned)}. Prefer an encoder that was trained on neither side, or read "
            "these numbers with care."
        )
    return lines
