"""Groups of images, such as the frames of a video: read from lists, kept whole by splits, and resampled whole by intervals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import Canvas
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources import PartialSource
from sslshift.data.sources.memory import cached
from sslshift.data.split import grouped_split
from sslshift.transfer.features import pixel_encoder
from sslshift.transfer.inference import bootstrap_interval
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import EncoderPredictions, PairedScores
from sslshift.transfer.predictions import load_predictions, save_predictions
from sslshift.transfer.protocol import evaluate, parse_evaluations
from sslshift.transfer.tasks import make_task

CANVAS = Canvas(8, 8, 1)


@pytest.fixture
def listed(tmp_path):
    """Writes a list of six pictures with these lines of label and group; returns its URI."""

    def write(rows, header="path,label,group"):
        for value in range(len(rows)):
            Image.fromarray(np.full((8, 8), 20 * value, np.uint8)).save(tmp_path / f"{value}.png")
        lines = [header, *(f"{value}.png,{row}" for value, row in enumerate(rows))]
        (tmp_path / "list.csv").write_text("\n".join(lines))
        return f"csv:{tmp_path / 'list.csv'}"

    return write


SIX = ["a,v1", "b,v1", "a,v2", "b,v2", "a, v3 ", "b,v3"]


def test_lists_name_the_group_of_each_image(listed, tmp_path):
    uri = listed(SIX)
    expected = ["v1", "v1", "v2", "v2", "v3", "v3"]
    assert open_source(uri).groups.tolist() == expected
    table = {"path": [f"{i}.png" for i in range(6)], "label": list("ababab"), "group": pa.array([1.0, 1, 2, 2, 3, 3])}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    assert open_source(f"parquet:{tmp_path}/list.parquet").groups.tolist() == ["1", "1", "2", "2", "3", "3"]
    assert open_source(listed([row[0] for row in SIX], "path,label")).groups is None


def test_groups_follow_their_images(listed, tmp_path):
    uri = listed(SIX)
    # Of an image that cannot be read the group goes as well.
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    source = open_source(uri)
    assert source.groups.tolist() == ["v1", "v2", "v2", "v3", "v3"]
    assert PartialSource(source, [3, 0]).groups.tolist() == ["v3", "v1"]
    assert cached(source, CANVAS).groups.tolist() == source.groups.tolist()


def test_imports_keep_groups(listed, tmp_path):
    listed(SIX)
    run_import(Import(tmp_path / "list.csv", tmp_path / "out", Encoding(8, "png"), shard_size=2), workers=0)
    source = open_source(f"arrayrecord:{tmp_path}/out")
    assert source.groups.tolist() == ["v1", "v1", "v2", "v2", "v3", "v3"]
    manifest = tmp_path / "out" / "manifest.parquet"
    rows = pq.read_table(manifest)
    place = rows.schema.get_field_index("group")
    lost = rows.set_column(place, "group", pa.array([None, *rows.column("group").to_pylist()[1:]], pa.string()))
    pq.write_table(lost, manifest)
    with pytest.raises(ValueError, match="was changed: it has images without a group"):
        _ = open_source(f"arrayrecord:{tmp_path}/out").groups


def test_imports_without_groups_have_no_column_of_them(listed, tmp_path):
    listed([row[0] for row in SIX], "path,label")
    run_import(Import(tmp_path / "list.csv", tmp_path / "out", Encoding(8, "png")), workers=0)
    assert "group" not in pq.read_schema(tmp_path / "out" / "manifest.parquet").names
    assert open_source(f"arrayrecord:{tmp_path}/out").groups is None


@pytest.mark.parametrize("empty", ["", "NA", "nan"])
def test_an_image_without_a_group_is_one_sentence(listed, empty):
    with pytest.raises(
        ValueError, match=r"row 3 has no group; give every image its group .* or rename the column 'group'"
    ) as error:
        open_source(listed([*SIX[:2], f"a,{empty}", *SIX[3:]]))
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=2, max_size=30), st.booleans(), st.integers(0, 99))
def test_splits_keep_groups_whole_and_classes_on_both_sides(sizes, mixed, seed):
    """Groups of one class each, or of several."""
    groups = np.repeat(np.arange(len(sizes)), [size for size, _ in sizes])
    labels = np.repeat([kind for _, kind in sizes], [size for size, _ in sizes])
    random = np.random.default_rng(seed)
    if mixed:
        labels = random.integers(0, 3, len(groups))
    order = random.permutation(len(groups))
    groups, labels = groups[order], labels[order]
    held_out, rest = grouped_split(labels, groups, 0.2, seed)
    assert sorted([*held_out, *rest]) == list(range(len(groups)))
    assert not set(groups[held_out]) & set(groups[rest])
    # No class is lost to the rest, from which a model learns.
    assert set(labels[rest]) == set(labels)
    if not mixed:
        several = {
            kind for kind in labels if len({group for group, own in zip(groups, labels, strict=True) if own == kind}) > 1
        }
        assert set(labels[held_out]) == several
    again = grouped_split(labels, groups, 0.2, seed)
    assert all(np.array_equal(*pair) for pair in zip((held_out, rest), again, strict=True))


def test_many_small_groups_meet_the_share_of_every_class():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    labels = random.integers(0, 4, 200)[groups]
    held_out, _ = grouped_split(labels, groups, 0.2, 1)
    assert np.bincount(labels[held_out]) == pytest.approx(0.2 * np.bincount(labels), abs=3)
    other, _ = grouped_split(labels, groups, 0.2, 2)
    assert len(set(held_out) & set(other)) < 0.5 * len(held_out)


def test_several_labels_are_split_by_group(random):
    groups = np.repeat(np.arange(40), 6)
    marks = (random.random((240, 5)) < 0.3).astype(np.uint8)
    held_out, rest = grouped_split(marks, groups, 0.25, 0)
    assert not set(groups[held_out]) & set(groups[rest])
    assert 48 <= len(held_out) <= 72
    assert marks[held_out].any(axis=0).all()
    # Images without any label are split as others are.
    assert len(grouped_split(np.zeros((240, 2), np.uint8), groups, 0.25, 0)[0]) == 60


def videos(random, count=30, frames=8, name="memory:videos"):
    """Frames of videos in two classes of different brightness; frames of one video differ little."""
    groups = np.repeat(np.arange(count), frames)
    labels = groups % 2
    bright = (90 + 40 * labels + random.normal(0, 25, count)[groups]).clip(0, 250)
    images = (bright[:, None, None, None] + random.integers(0, 6, (len(groups), 8, 8, 1))).astype(np.uint8)
    return ArraySource(name, images, labels, groups=np.array([f"{name}-{each}" for each in groups]))


def test_tasks_draw_splits_without_a_group_in_two_of_them(random):
    source = videos(random)
    task = make_task(source, None, CANVAS, labelled=0)
    groups = [set(part.groups) for part in task.splits.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert [len(part.indices) for part in task.splits.values()] == pytest.approx([154, 38, 48], abs=8)
    assert task.notes[0].endswith("drawn by class and group, are held out")
    assert (
        task.notes[-1]
        == f"the {len(task.test.indices)} test images are of {len(groups[2])} groups, which intervals resample whole"
    )
    # With few labelled images, validation and training images are still of different groups.
    few = make_task(source, None, CANVAS, labelled=40)
    assert len(few.train.indices) + len(few.validation.indices) == 40
    assert not set(few.train.groups) & set(few.validation.groups)
    np.testing.assert_array_equal(few.test.indices, task.test.indices)


def test_records_of_tasks_depend_on_groups_where_there_are_some(random):
    source = videos(random)
    alone = ArraySource("memory:videos", source._images, source.labels)
    assert "groups" not in make_task(alone, None, CANVAS, labelled=0).facts
    train, test = videos(random), videos(random, name="memory:test")
    facts = make_task(train, test, CANVAS, labelled=0).facts
    moved = ArraySource("memory:test", test._images, test.labels, groups=np.arange(len(test)))
    assert make_task(train, moved, CANVAS, labelled=0).facts != facts
    assert make_task(train, videos_again(test), CANVAS, labelled=0).facts == facts


def videos_again(source):
    """The same images and groups, whose names are stored in a wider type."""
    return ArraySource(source.name, source._images, source.labels, groups=source.groups.astype("U99"))


def test_groups_in_two_named_splits_are_noted_once(random):
    train = videos(random)
    test = videos(random, name="memory:test")
    shared = ArraySource("memory:test", test._images, test.labels, groups=np.r_[train.groups[:16], test.groups[16:]])
    validation = videos(random, name="memory:validation")
    notes = make_task(train, shared, CANVAS, labelled=0, validation=validation).notes
    assert [note for note in notes if "also in" in note] == [
        "2 groups of the test split (16 of its 240 images) are also in the train split, e.g. 'memory:videos-0': scores may be "
        "too high for images of new groups"
    ]
    bare = ArraySource("memory:test", test._images, test.labels)
    notes = make_task(train, bare, CANVAS, labelled=0).notes
    assert notes[-1] == "the train images have groups, but memory:test has none, so that its images count as independent"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda test: np.zeros(len(test)), "all 240 test images are of the group '0.0', .* or name another test split"),
        (lambda test: np.arange(3), r"expected groups \[240\], one for each image, got \[3\]"),
    ],
)
def test_groups_that_do_not_fit_are_one_sentence(random, groups, message):
    test = videos(random, name="memory:test")
    with pytest.raises(ValueError, match=message):
        make_task(
            videos(random), ArraySource("memory:test", test._images, test.labels, groups=groups(test)), CANVAS, labelled=0
        )


def test_a_source_whose_groups_are_all_needed_is_one_sentence(random):
    source = videos(random, count=2)
    with pytest.raises(ValueError, match="no group of images can be held out, because each has the only images of a class"):
        make_task(source, None, CANVAS, labelled=0)


def test_scores_and_predictions_know_the_groups(random, tmp_path):
    task = make_task(videos(random), videos(random, name="memory:test"), CANVAS, labelled=0)
    found = evaluate(pixel_encoder, task, parse_evaluations("knn"))
    predictions = found.outcomes["knn"].predictions
    accuracy = METRICS["accuracy"]
    grouped = bootstrap_interval(accuracy, predictions, found.labels, groups=task.test.groups)
    scores = found.scores()
    assert (scores["knn"], scores["knn_low"], scores["knn_high"]) == grouped
    alone = bootstrap_interval(accuracy, predictions, found.labels)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    save_predictions(found, tmp_path)
    kept = load_predictions(tmp_path)
    assert kept.groups.tolist() == task.test.groups.tolist()
    assert kept.at(kept.indices[5:7]).groups.tolist() == task.test.groups[5:7].tolist()
    paired = PairedScores.of_members([EncoderPredictions("pixels", None, None, kept)], "knn")
    assert (paired.images, paired.grouped, paired.effective) == (30, True, pytest.approx(30))
    assert paired.score("pixels")[:3] == pytest.approx(grouped, abs=0.01)
    # Files of earlier versions have no groups, and a damaged file is noticed.
    with np.load(tmp_path / "predictions.npz") as arrays:
        arrays = dict(arrays)
    np.savez(tmp_path / "predictions.npz", **{name: each for name, each in arrays.items() if name != "groups"})
    assert load_predictions(tmp_path).groups is None
    np.savez(tmp_path / "predictions.npz", **arrays | {"groups": arrays["groups"][1:]})
    with pytest.raises(ValueError, match="do not belong together"):
        load_predictions(tmp_path)
