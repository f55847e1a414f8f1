"""Images, containers and imports for tests of sources."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources.manifest import MANIFEST


def picture(seed: int, width: int = 40, height: int = 30, form: str = "PNG") -> bytes:
    """Returns a smooth random picture, encoded."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


def encoded(value: int, form: str = "PNG") -> bytes:
    """Returns an image of one grey level, encoded."""
    out = io.BytesIO()
    Image.new("L", (8, 6), value).save(out, form)
    return out.getvalue()


def array_record(path: Path, contents, options: str = "group_size:1") -> None:
    """Writes an ArrayRecord file of these records, as other programs do."""
    writer = ArrayRecordWriter(str(path), options)
    for content in contents:
        writer.write(content)
    writer.close()


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **about) -> None:
    """Adds a member with any attributes to a tar archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in about.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def crawl(path: Path, count: int = 3, mode: str = "w") -> None:
    """Writes a shard as img2dataset does."""
    with tarfile.open(path, mode) as archive:
        for i in range(count):
            add(archive, f"{i:09d}.jpg", picture(i, form="JPEG"))
            add(archive, f"{i:09d}.txt", f"caption {i}".encode())
            about = {"url": f"https://example.org/{i}", "status": "success", "license": "CC-BY" if i else None}
            add(archive, f"{i:09d}.json", json.dumps(about).encode())


def import_of(source: Path, output: Path, **changes) -> Import:
    """Returns an import of small images in small shards."""
    return Import(source, output, **{"encoding": Encoding(16, "png"), "shard_size": 2} | changes)


def imported(source: Path, output: Path, **changes) -> tuple[list[dict], dict[str, str]]:
    """Runs an import in this process; returns the rows of the manifest, and the reasons of refused images by path."""
    run_import(import_of(source, output, **changes), workers=0)
    return pq.read_table(output / MANIFEST).to_pylist(), refusals(output)


def refusals(folder: Path) -> dict[str, str]:
    """Returns the reasons of refused images by path."""
    with open(folder / "refused.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def files(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files in a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all files of a source except the records of its settings."""
    return {name: content for name, content in files(folder).items() if name not in ("import.json", "source.json")}
