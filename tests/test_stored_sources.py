"""Sources of ArrayRecord files, and of datasets that TFDS prepared."""

import io
import pickle
import sys

import numpy as np
import pytest
from source_builders import array_record, encoded

from sslshift.data import open_source
from sslshift.data.decode import BrokenImageError, Canvas


def test_array_records_of_others_are_read(tmp_path):
    array_record(tmp_path / "a.array_record-00000-of-00002", [encoded(i) for i in range(5)])
    array_record(tmp_path / "a.array_record-00001-of-00002", [encoded(i) for i in range(5, 8)])
    source = open_source(f"arrayrecord:{tmp_path}?licence=mine")
    assert len(source) == 8
    assert [int(source[i]["image"][0, 0, 0]) for i in range(8)] == list(range(8))
    assert source.read(np.array([7, 0, 6, 7]), Canvas(6, 8, 1))[:, 0, 0, 0].tolist() == [7, 0, 6, 7]
    assert (source.licence, source.labels, source.stored_identities()) == ("mine", None, None)
    again = pickle.loads(pickle.dumps(source))
    assert (again[3]["image"] == source[3]["image"]).all()
    assert len(open_source(f"arrayrecord:{tmp_path / 'a.array_record-00001-of-00002'}")) == 3
    before = source.fingerprint
    array_record(tmp_path / "a.array_record-00001-of-00002", [encoded(i) for i in range(6, 9)])
    assert open_source(f"arrayrecord:{tmp_path}").fingerprint != before


def test_array_records_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.array_record file; python -m tools.import_images"):
        open_source(f"arrayrecord:{tmp_path}")
    with pytest.raises(ValueError, match="there is no folder or file"):
        open_source(f"arrayrecord:{tmp_path / 'nothing'}")
    (tmp_path / "a.array_record").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.array_record (holds no record|cannot be read)"):
        open_source(f"arrayrecord:{tmp_path}")
    array_record(tmp_path / "a.array_record", [encoded(1), b"no image"])
    source = open_source(f"arrayrecord:{tmp_path}")
    with pytest.raises(BrokenImageError, match=r"a\.array_record, record 1: it is not an image"):
        source[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset that TFDS wrote in ArrayRecord format, without TensorFlow."""
    import tensorflow_datasets as tfds

    names = {"image": tfds.features.Image(shape=(None, None, 1)), "label": tfds.features.ClassLabel(names=["ok", "scratch"])}

    class Parts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(names), license="CC0")

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(7), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": io.BytesIO(encoded(10 * i)), "label": i % 2}

    folder = tmp_path_factory.mktemp("tfds")
    Parts(data_dir=folder, file_format="array_record").download_and_prepare(file_format="array_record")
    return folder


def test_prepared_datasets_are_read_without_tensorflow(prepared):
    source = open_source(f"tfds:parts/train?data_dir={prepared}")
    assert len(source) == 7
    assert source.classes == ("ok", "scratch")
    assert "CC0" in source.licence
    # TFDS shuffles when it writes: value and label still belong together.
    values = [int(source[i]["image"][0, 0, 0]) for i in range(7)]
    assert sorted(values) == list(range(0, 70, 10))
    assert [source[i]["label"] for i in range(7)] == [value // 10 % 2 for value in values]
    assert source.read(np.arange(7), Canvas(6, 8, 1))[:, 0, 0, 0].tolist() == values
    assert len(open_source(f"tfds:parts:1.0.0/train[:2]?data_dir={prepared}")) == 2
    assert source.fingerprint != open_source(f"tfds:parts/test?data_dir={prepared}").fingerprint
    assert source.fingerprint == pickle.loads(pickle.dumps(source)).fingerprint
    assert "tensorflow" not in sys.modules


def test_mocked_datasets_are_read():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        source = open_source("tfds:cifar10/train")
    assert len(source) == 5
    assert source[2]["image"].shape == (32, 32, 3)
    assert len(source.labels) == 5
    assert len(source.classes) == 10


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("tfds:cifar10", "Expected tfds:NAME/SPLIT"),
        ("tfds:cifar11/train", "has no dataset 'cifar11'; did you mean cifar10"),
        ("tfds:parts/val", "split 'val' of parts cannot be read"),
        ("tfds:mnist/train", r"prepare it with tfds.builder\('mnist'\)"),
    ],
)
def test_datasets_that_are_not_there_are_named(prepared, uri, message):
    with pytest.raises(ValueError, match=message):
        open_source(f"{uri}?data_dir={prepared}" if "/" in uri else uri)
