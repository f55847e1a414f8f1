"""Files that are given to the wrong reader: the error names their kind, and the reader for it."""

import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import re
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from source_builders import array_record
from tensorflow_datasets.proto import tf_example_pb2

from sslshift.data import open_source
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources.recognise import recognise, recognise_record


def image(form="PNG") -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 6), 3).save(out, form)
    return out.getvalue()


def example(**features: bytes) -> bytes:
    message = tf_example_pb2.Example()
    for name, value in features.items():
        message.features.feature[name].bytes_list.value.append(value)
    return message.SerializeToString()


def sequence() -> bytes:
    message = tf_example_pb2.SequenceExample()
    message.feature_lists.feature_list["frames"].feature.add().bytes_list.value.append(image())
    return message.SerializeToString()


def saved(save, *args, **kwargs) -> bytes:
    out = io.BytesIO()
    save(out, *args, **kwargs)
    return out.getvalue()


RECORDS = {
    "example": (
        example(image=image(), label=b"x"),
        r"a serialised tf\.train\.Example \(features image, label\), as TFDS writes",
    ),
    "long example": (example(image=bytes(1 << 20)), r"a serialised tf\.train\.Example \(features image\)"),
    "sequence": (sequence(), r"a serialised tf\.train\.Example \(features frames\)"),
    "msgpack": (b"\x82\xa5image\xc4\x03png\xa5label\x01", "a MessagePack map; write the encoded image of each record"),
    "json": (json.dumps({"image": "abc"}).encode(), "JSON; write the encoded image of each record"),
    "pickle": (pickle.dumps({"image": image()}), "a pickle, which may run code and is never opened"),
    "npy": (saved(np.save, np.zeros((4, 4, 3), np.uint8)), "an array of NumPy"),
    "pixels": (bytes(range(200)), r"no image of a known format \(it begins with b'\\x00\\x01"),
    "text": (b"hello", r"no image of a known format \(it begins with b'hello'\)"),
    "gzip": (gzip.compress(image()), "compressed by gzip"),
    "nothing": (b"", r"no image of a known format \(it begins with b''\)"),
}


@pytest.mark.parametrize("options", ["group_size:1", "group_size:100"])
@pytest.mark.parametrize("kind", RECORDS)
def test_records_that_are_no_images_are_recognised_at_opening(tmp_path, kind, options):
    content, message = RECORDS[kind]
    array_record(tmp_path / "a.array_record", [content] * 5, options)
    for uri in (f"arrayrecord:{tmp_path}", f"arrayrecord:{tmp_path}/a.array_record"):
        with pytest.raises(
            ValueError, match=rf"expected encoded images as the records of .*a\.array_record; the first record is {message}"
        ):
            open_source(uri)
    # The second shard is read too.
    array_record(tmp_path / "A.array_record", [image()] * 2)
    with pytest.raises(ValueError, match=r"expected encoded images as the records of .*a\.array_record"):
        open_source(f"arrayrecord:{tmp_path}")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_records_that_are_images_open_though_some_are_broken(tmp_path, form):
    array_record(tmp_path / "a.array_record", [b"broken", image(form), b"broken"])
    assert len(open_source(f"arrayrecord:{tmp_path}")) == 3


def test_examples_that_tfds_prepared_are_opened_by_the_uri_in_the_message(tmp_path):
    import tensorflow_datasets as tfds

    names = {"image": tfds.features.Image(shape=(None, None, 1)), "label": tfds.features.ClassLabel(names=["ok", "bad"])}

    class Wafers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small"), tfds.core.BuilderConfig(name="large")]  # noqa: RUF012

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(names))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield i, {"image": io.BytesIO(image()), "label": i % 2}

    Wafers(config="small", data_dir=tmp_path, file_format="array_record").download_and_prepare(file_format="array_record")
    with pytest.raises(ValueError, match=r"tf\.train\.Example .* reads them") as error:
        open_source(f"arrayrecord:{tmp_path}/wafers/small/1.0.0")
    uri = next(word for word in str(error.value).split() if word.startswith("tfds:"))
    assert uri == f"tfds:wafers/small/train?data_dir={tmp_path}"
    assert len(open_source(uri)) == 3


def tfrecord(content: bytes) -> bytes:
    """Returns one record with the masked CRC-32C of its length, by definition the remainder of a division of polynomials."""
    length = struct.pack("<Q", len(content))
    crc = 0xFFFFFFFF
    for byte in length:
        for bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if (crc ^ byte >> bit) & 1 else 0)
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
    return length + struct.pack("<I", masked) + content + bytes(4)


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(image())
        archive.addfile(info, io.BytesIO(image()))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.png", image())
    return out.getvalue()


def hugging_face() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": image(), "path": "a.png"}], "label": [1]}), out)
    return out.getvalue()


FILES = {
    "tfrecord": (tfrecord(example(image=image())), "a TFRecord file; tfds: reads"),
    "tar": (tar(), "a tar archive; python -m tools.import_images imports it under a name that ends in .tar"),
    "zip": (zipped(), "a zip archive; python -m tools.import_images"),
    "npz": (saved(np.savez, images=np.zeros((2, 4, 4), np.uint8)), "an .npz file of NumPy; write its images as files"),
    "npy": (saved(np.save, np.zeros((2, 4, 4), np.uint8)), "an array of NumPy; write its images as files"),
    "gz": (gzip.compress(b"path,label\na.png,x\n"), "compressed by gzip; unpack it"),
    "bz2": (bz2.compress(tar()), "compressed by bzip2; unpack it"),
    "xz": (lzma.compress(tar()), "compressed by xz; unpack it"),
    "mdb": (bytes(16) + b"\xde\xc0\xef\xbe" + bytes(4000), "an LMDB database; write its images as files"),
    "msgpack": (b"\x81\xa5image\xc4\x03png", "a MessagePack map"),
    "pkl": (pickle.dumps([image()]), "a pickle, which may run code and is never opened"),
    "json": (b'[{"path": "a.png", "label": 1}]', "JSON"),
    "jsonl": (b'{"file_name": "a.png", "label": 1}\n', "JSON"),
    "png": (image(), "an image; folder: opens the folder that holds it"),
    "jpg": (image("JPEG"), "an image; folder:"),
}


@pytest.mark.parametrize("kind", [*FILES, "parquet", "array_record"])
@pytest.mark.parametrize("scheme", ["arrayrecord", "parquet", "csv", "import"])
def test_files_of_other_kinds_are_recognised(tmp_path, kind, scheme):
    content, message = FILES.get(kind, (hugging_face(), "a Parquet file; parquet: opens one with a column 'path'"))
    file = tmp_path / f"a.{'bin' if scheme == 'import' else kind}"
    file.write_bytes(content)
    if kind == "array_record":
        array_record(file, [image()])
        message = "a file of ArrayRecord or other Riegeli records; arrayrecord: opens it"
        if scheme == "arrayrecord":
            assert len(open_source(f"arrayrecord:{file}")) == 1
            file.write_bytes(file.read_bytes()[:-100])
    if kind == "parquet" and scheme in ("parquet", "csv"):
        message = "its column 'image' holds whole image files, as in datasets of Hugging Face; write each image as a file"
    read = functools.partial(open_source, f"{scheme}:{file}")
    if scheme == "import":
        read = functools.partial(run_import, Import(file, tmp_path / "out"), workers=0)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read()
    assert str(error.value).isprintable()


def test_shards_that_count_themselves_must_all_be_there(tmp_path):
    for i in range(3):
        array_record(tmp_path / f"a.array_record-{i:05d}-of-00003", [image()])
        array_record(tmp_path / f"b-{i}-of-3.array_record", [image()])
    assert len(open_source(f"arrayrecord:{tmp_path}")) == 6
    (tmp_path / "a.array_record-00001-of-00003").unlink()
    with pytest.raises(ValueError, match=r"holds 2 of the 3 shards a\.array_record-\*-of-00003; copy the missing shards there"):
        open_source(f"arrayrecord:{tmp_path}")
    assert len(open_source(f"arrayrecord:{tmp_path}/a.array_record-00002-of-00003")) == 1


@pytest.mark.parametrize("scheme", ["folder", "arrayrecord"])
@pytest.mark.parametrize("kind", ["tfrecord", "tar", "npz", "mdb", "parquet", "jpg"])
def test_folders_of_other_files_are_recognised(tmp_path, scheme, kind):
    content, message = FILES.get(kind, (hugging_face(), "a Parquet file; parquet: opens"))
    (tmp_path / "notes.xyz").write_text("nothing")
    (tmp_path / "some-00000").write_bytes(content)
    message = "an image, but its name does not have an image's extension; rename it" if kind == "jpg" else message
    with pytest.raises(ValueError, match=rf"It holds some-00000, which is {re.escape(message)}"):
        open_source(f"{scheme}:{tmp_path}")


def test_whatever_a_record_holds_it_is_told(tmp_path, random):
    start = [b"\n", b"\x12", b"\x80", b"\x93NUMPY", b"PK\x03\x04", b'{"', b"", example(image=image())]
    for trial in range(400):
        content = start[trial % len(start)] + random.integers(0, 256, random.integers(0, 60), np.uint8).tobytes()
        assert recognise_record(content, tmp_path / "a.array_record").isprintable()
        assert recognise(content).isprintable()
