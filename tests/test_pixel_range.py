"""Images of more than 8 bits: one range of values for a whole source, decided once, recorded and reported, or stated."""

import json

import numpy as np
import pytest
from deep_files import GRAY, RAMP, eight_bits, stored
from PIL import Image
from source_builders import array_record

from sslshift.data import open_source
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.ranges import Levels, PixelRange, compare_ranges, decide_range, merge_levels, parse_range
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import, begin, import_group, tasks_of
from sslshift.data.records.listing import list_container
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.sources import CachedSource, PartialSource
from sslshift.transfer.tasks import make_task


@pytest.mark.parametrize(
    ("highest", "bits", "top"),
    [
        (0, 0, 255),
        (255, 0, 255),
        (256, 0, 1023),
        (4095, 0, 4095),
        (4096, 0, 16383),
        (65535, 0, 65535),
        (900, 12, 4095),
        (60_000, 12, 65535),
    ],
)
def test_the_smallest_range_that_holds_all_is_chosen(highest, bits, top):
    levels = [Levels(False, 1, 10, 0, highest, bits=bits)]
    assert decide_range(levels, None, "x", "?range") == PixelRange(0, top)


@pytest.mark.parametrize("text", ["", "4095", "0-4095", "5..5", "9..2", "0..inf", "nan..1", "0..1..2", " 0..1", "0..\u0661"])
def test_ranges_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"Expected .* numbers LOW\.\.HIGH for range"):
        parse_range(text, "range")
    assert parse_range("-1e3..+.5", "range")[:2] == (-1000, 0.5)


@pytest.fixture
def scans(tmp_path):
    """Images of 12 bits in files of 16; the first of them is dark."""
    folder = tmp_path / "scans"
    for place, part in enumerate((4, 1, 2)):
        (folder / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[place % 2] / f"{place}.png").write_bytes(stored(GRAY // part))
    return folder


def test_a_source_has_one_range_for_all_of_its_files(scans):
    source = open_source(f"folder:{scans}")
    assert source.pixel_range == PixelRange(0, 4095)
    assert source.notes[0].startswith("images of integers of more than 8 bits (3) hold 0 to 4095; the range 0..4095 becomes")
    for index, part in enumerate((4, 2, 1)):
        assert (source[index]["image"] == eight_bits(GRAY // part, 0, 4095)).all()
    assert (source.read(np.array([2]), Canvas(20, 30, 1))[0] == eight_bits(GRAY, 0, 4095)).all()
    for other in (PartialSource(source, np.array([0])), CachedSource(source, Canvas(8, 8, 1))):
        assert (other.pixel_range, other.notes) == (source.pixel_range, source.notes)
    # A brighter image changes what all of them look like, and so the source.
    before = source.fingerprint
    (scans / "c.png").write_bytes(stored(GRAY * 2))
    brighter = open_source(f"folder:{scans}")
    assert brighter.pixel_range == PixelRange(0, 16383)
    assert (brighter[0]["image"] == eight_bits(GRAY // 4, 0, 16383)).all()
    (scans / "c.png").unlink()
    assert open_source(f"folder:{scans}").fingerprint == before


def test_a_stated_range_is_part_of_the_source_and_what_it_clips_is_counted(scans):
    source = open_source(f"folder:{scans}?range=0..2000")
    assert source.pixel_range[:2] == (0, 2000)
    assert (source[2]["image"] == eight_bits(GRAY, 0, 2000)).all()
    clipped = (GRAY > 2000).sum() + (GRAY // 2 > 2000).sum()
    assert f"values outside of it are clipped: {clipped / 1800:.2g} of the pixels, in 2 images" in source.notes[0]
    assert source.fingerprint != open_source(f"folder:{scans}").fingerprint
    assert "no value is outside of it" in open_source(f"folder:{scans}?range=-10..5000").notes[0]
    (scans / "list.csv").write_text("path\na/0.png\nb/1.png\n")
    assert open_source(f"csv:{scans / 'list.csv'}?range=0..2000").pixel_range == source.pixel_range
    assert open_source(f"csv:{scans / 'list.csv'}").pixel_range == PixelRange(0, 4095)
    with pytest.raises(ValueError, match=r"two numbers LOW\.\.HIGH for .*range, as in 0\.\.4095, got '4095'"):
        open_source(f"folder:{scans}?range=4095")


def test_8_bit_files_beside_others_are_taken_by_their_type(scans, random):
    image = random.integers(0, 256, (20, 30), np.uint8)
    (scans / "z.png").write_bytes(stored(image))
    source = open_source(f"folder:{scans}")
    assert (source[3]["image"][..., 0] == image).all()
    assert "images that have 8 bits or state their own range (1) keep that range" in source.notes[0]
    only = scans.parent / "only"
    only.mkdir()
    (only / "z.png").write_bytes(stored(image))
    before = open_source(f"folder:{only}")
    assert (before.pixel_range, tuple(before.notes)) == (None, ())
    stated = open_source(f"folder:{only}?range=0..9")
    assert (stated.fingerprint, stated.pixel_range) == (before.fingerprint, None)
    assert stated.notes == ["the stated range 0..9 is not used, since no image has more than 8 bits"]


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (
            (RAMP / 16).astype(np.float32),
            r"floating-point images \(1\) hold values from 0 to 255\.9375 .*must be in 0\.\.1",
        ),
        (GRAY.astype(np.int32) - 1000, r"integer images \(1\) hold values from -1000 to 3095 .*must be in 0\.\.65535"),
        (GRAY.astype(np.int32) * 50, r"from 0 to 204750 .*must be in 0\.\.65535"),
    ],
)
def test_sources_of_unknown_black_and_white_are_refused_with_the_option(tmp_path, values, seen):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"{seen}; state the values of black and white with \?range=LOW\.\.HIGH"):
        open_source(f"folder:{tmp_path}")
    low = int(values.min())
    high = int(values.max()) + 1
    image = open_source(f"folder:{tmp_path}?range={low}..{high}")[0]["image"]
    assert (image == eight_bits(values, low, high)).all()


def test_floating_images_in_0_to_1_are_taken_as_they_are(tmp_path):
    Image.fromarray((RAMP / 8190).astype(np.float32)).save(tmp_path / "a.tif")
    source = open_source(f"folder:{tmp_path}")
    assert (source[0]["image"] == eight_bits((RAMP / 8190).astype(np.float32), 0, 1)).all()
    assert "the range 0..1 becomes 0 to 255" in source.notes[0]
    # Beside whole numbers as well: each by its own kind.
    (tmp_path / "b.png").write_bytes(stored(GRAY))
    both = open_source(f"folder:{tmp_path}")
    assert (both[0]["image"] == source[0]["image"]).all()
    assert (both[1]["image"] == eight_bits(GRAY, 0, 4095)).all()
    assert len(both.notes) == 2


def test_splits_that_are_opened_apart_must_have_one_range(tmp_path):
    for split, part in (("train", 1), ("test", 4)):
        for place in range(8):
            file = tmp_path / split / "ab"[place % 2] / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(stored(np.roll(GRAY // part, place)))
    uris = [f"folder:{tmp_path / split}?labels=folder" for split in ("train", "test")]
    with pytest.raises(
        ValueError, match=r"0\.\.4095 in .*train.* and 0\.\.1023 in .*test.*.*Give one range for both, .*\?range=0\.\.4095"
    ):
        make_task(*map(open_source, uris), Canvas(8, 8, 1), labelled=0)
    task = make_task(*(open_source(f"{uri}&range=0..4095") for uri in uris), Canvas(8, 8, 1), labelled=0)
    assert sum("the stated range 0..4095" in note for note in task.notes) == 2


def test_records_of_others_need_a_stated_range(tmp_path):
    array_record(tmp_path / "a.array_record", [stored(GRAY), stored(GRAY.astype(np.uint8))])
    source = open_source(f"arrayrecord:{tmp_path}")
    with pytest.raises(BrokenImageError, match=r"record 0: it has more than 8 bits.*; state it with \?range=LOW\.\.HIGH"):
        source[0]
    assert (source[1]["image"][..., 0] == GRAY.astype(np.uint8)).all()
    stated = open_source(f"arrayrecord:{tmp_path}?range=0..4095")
    assert (stated[0]["image"] == eight_bits(GRAY, 0, 4095)).all()
    assert stated.fingerprint != source.fingerprint
    assert stated.notes == [
        "in images of more than 8 bits the stated range 0..4095 becomes 0 to 255; clipped values are not counted"
    ]


def imported(scans, output, **options):
    options = {"encoding": Encoding(64, "png"), "shard_size": 2, **options}
    return run_import(Import(scans, output, **options), workers=0).summary


def test_an_import_decides_one_range_and_records_it(scans, tmp_path, random):
    (scans / "a/8 bits.png").write_bytes(stored(random.integers(0, 256, (20, 30), np.uint8)))
    summary = imported(scans, tmp_path / "out")
    assert summary.pixel_range == PixelRange(0, 4095)
    assert "the range 0..4095 becomes 0 to 255 in all of them (--range=LOW..HIGH sets another)" in summary.notes[0]
    values = json.loads((tmp_path / "out/source.json").read_text())
    assert values["pixel_range"][:2] == [0, 4095]
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert (source.pixel_range, source.notes) == (summary.pixel_range, summary.notes)
    for index, part in ((0, 4), (1, 2), (3, 1)):
        assert (source[index]["image"] == eight_bits(GRAY // part, 0, 4095)).all()
    with pytest.raises(ValueError, match="state the range with --range when the images are imported"):
        open_source(f"arrayrecord:{tmp_path / 'out'}?range=0..9")
    # In processes, and once more: the same.
    again = run_import(Import(scans, tmp_path / "again", Encoding(64, "png"), shard_size=2), workers=2).summary
    assert again.fingerprint == summary.fingerprint
    assert imported(scans, tmp_path / "out") == summary


def test_an_import_takes_a_stated_range_and_counts_what_it_clips(scans, tmp_path):
    summary = imported(scans, tmp_path / "out", pixel_range=parse_range("0..2000", "range"))
    assert (open_source(f"arrayrecord:{tmp_path / 'out'}")[2]["image"] == eight_bits(GRAY, 0, 2000)).all()
    assert summary.notes == tuple(
        note.replace("?range", "--range") for note in open_source(f"folder:{scans}?range=0..2000").notes
    )
    assert summary.made["range"] == "0..2000"


def test_an_import_that_needs_a_range_goes_on_once_it_is_stated(tmp_path):
    (tmp_path / "in").mkdir()
    for place in range(5):
        Image.fromarray((RAMP / 16 + place).astype(np.float32)).save(tmp_path / f"in/{place}.tif")
    with pytest.raises(ValueError, match=r"floating-point images \(5\) .*from 0 to 259\.9375 .*--range=LOW\.\.HIGH"):
        imported(tmp_path / "in", tmp_path / "out")
    # Once the image that the error names is taken away, the others are read again.
    (tmp_path / "in/4.tif").unlink()
    with pytest.raises(ValueError, match=r"\(4\) hold values from 0 to 258\.9375"):
        imported(tmp_path / "in", tmp_path / "out")
    imported(tmp_path / "in", tmp_path / "out", pixel_range=parse_range("0..260", "range"))
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert (source[3]["image"] == eight_bits((RAMP / 16 + 3).astype(np.float32), 0, 260)).all()
    with pytest.raises(ValueError, match=r"made with other settings \(range: 0\.\.260 there, 0\.\.9 now\)"):
        imported(tmp_path / "in", tmp_path / "out", pixel_range=parse_range("0..9", "range"))


def test_an_import_that_was_stopped_keeps_its_range(scans, tmp_path):
    whole = imported(scans, tmp_path / "whole")
    job = Import(scans, tmp_path / "out", Encoding(64, "png"), shard_size=2)
    begin(job)
    from sslshift.data.records.listing import find_containers

    listings = [list_container(each, job.output, job.shard_size, job.labels) for each in find_containers(job.input)]
    first, last = tasks_of(listings)
    assert import_group(job, first) is None
    # One with a range that the user then takes back: nothing of it is left.
    stated = Import(scans, tmp_path / "out", Encoding(64, "png"), shard_size=2, pixel_range=parse_range("0..99", "range"))
    begin(stated)
    assert import_group(stated, last).records == 1
    assert imported(scans, tmp_path / "out").fingerprint == whole.fingerprint


def test_beam_decides_the_same_range(scans, tmp_path):
    pytest.importorskip("apache_beam")
    summary = run_on_beam(Import(scans, tmp_path / "beam", Encoding(64, "png"), shard_size=2)).summary
    whole = imported(scans, tmp_path / "out")
    assert (summary.fingerprint, summary.pixel_range, summary.notes) == (whole.fingerprint, whole.pixel_range, whole.notes)


def test_different_ranges_of_sources_are_said():
    ranges = {"near": PixelRange(0, 4095), "far": PixelRange(0, 1023), "eight bits": None}
    (said,) = compare_ranges(ranges)
    assert "0..4095 in near, 0..1023 in far" in said
    assert compare_ranges(ranges | {"far": PixelRange(0.0, 4095.0, stated=True)}) == []


def test_levels_merge_in_any_order():
    each = [
        Levels(floating, 1, 10, low, low + 5, f"{low}", f"{low}", low % 3) for low in range(6) for floating in (False, True)
    ]
    assert merge_levels(each) == merge_levels([*merge_levels(each[:5]), *merge_levels(each[5:])])
    assert [(found.images, found.low, found.high, found.highest) for found in merge_levels(each)] == [(6, 0, 10, "5")] * 2
