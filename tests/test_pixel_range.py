"""Images of more than 8 bits: one range of values for a whole source, decided once, recorded and reported, or stated."""

import contextlib
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from source_builders import array_record

from sslshift.data import open_source
from sslshift.data.decode import BrokenImageError, Canvas, check, decode
from sslshift.data.ranges import Levels, PixelRange, compare_ranges, decide_range, merge_levels, parse_range
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import, begin, import_group, tasks_of
from sslshift.data.records.listing import list_container
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.sources import CachedSource, PartialSource
from sslshift.transfer.tasks import make_task

RAMP = np.linspace(0, 4095, 20 * 30).reshape(20, 30)


def stored(image, form="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def png16(values, colour_type, *chunks):
    """A PNG of 16 bits, which Pillow writes of gray alone; rows are filtered by each of the five filters in turn."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    step = 2 * values[0, 0].size
    left = np.pad(rows, ((0, 0), (step, 0)))[:, :-step]
    filtered = [bytes([y % 2]) + (row - left[y] * (y % 2)).astype(np.uint8).tobytes() for y, row in enumerate(rows)]
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), 16, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(filtered)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*each) for each in chunks) + body + chunk(b"IEND", b"")
    )


def tiff(values, *, order="<", bits=None, sample_format=None, photometric=1, compression=1, planar=1):
    """A TIFF file of one strip, or of one for each plane."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    samples = 1 if values.ndim == 2 else values.shape[2]
    planes = [values] if planar == 1 else [values[..., plane] for plane in range(samples)]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if compression == 8 else strips
    fields = {
        256: (4, [values.shape[1]]),
        257: (4, [values.shape[0]]),
        258: (3, [bits or values.dtype.itemsize * 8] * samples),
        259: (3, [compression]),
        262: (3, [2 if samples >= 3 else photometric]),
        273: (4, None),
        277: (3, [samples]),
        278: (4, [values.shape[0]]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [planar]),
        339: (3, [sample_format or kind] * samples),
    }
    if samples == 4:
        fields[338] = (3, [2])
    extra = data = b""
    start = 8 + 2 + 12 * len(fields) + 4
    sizes = sum(4 * len(strips) if tag in (273, 279) else 2 * samples for tag in (258, 273, 279, 339))
    places = np.cumsum([start + sizes, *map(len, strips)])[:-1].tolist()
    entries = b""
    for tag, (type_, numbers) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(numbers or places)}{'HI'[type_ == 4]}", *(numbers or places))
        if len(packed) > 4:
            place = struct.pack(f"{order}I", start + len(extra))
            extra = extra + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, type_, len(numbers or places)) + place
    data = (extra.ljust(sizes, b"\0")) + b"".join(strips)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + data


def eight_bits(values, low, high):
    image = np.clip((np.asarray(values, np.float64) - low) * 255 / (high - low) + 0.5, 0, 255).astype(np.uint8)
    return image if image.ndim == 3 else image[..., None]


GRAY = RAMP.astype(np.uint16)
COLOUR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], -1)
OPAQUE = np.concatenate([COLOUR, np.full((20, 30, 1), 65535, np.uint16)], -1)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (stored(GRAY), GRAY),
        (stored(GRAY, "TIFF"), GRAY),
        (stored(GRAY, "TIFF", compression="tiff_lzw"), GRAY),
        (stored(GRAY, "PPM"), GRAY),
        (stored(GRAY.astype(np.int32), "TIFF"), GRAY),
        (stored(RAMP.astype(np.float32), "TIFF"), RAMP.astype(np.float32)),
        (stored(GRAY, "JPEG2000", irreversible=False), GRAY),
        (png16(COLOUR, 2), COLOUR),
        (png16(OPAQUE, 6), COLOUR),
        (png16(np.stack([GRAY, np.full_like(GRAY, 65535)], -1), 4), GRAY),
        (b"P6 30 20 65535\n" + COLOUR.astype(">u2").tobytes(), COLOUR),
        *(
            (tiff(values, order=order, compression=compression), values)
            for values in (GRAY, COLOUR, GRAY.astype(np.int16), GRAY.astype(np.int32), RAMP.astype(np.float32))
            for order in "<>"
            for compression in (1, 8)
        ),
        (tiff(OPAQUE), COLOUR),
        (tiff(GRAY.astype(np.uint32)), GRAY),
        *((tiff(COLOUR, order=order, planar=2), COLOUR) for order in "<>"),
    ],
)
def test_every_file_of_more_than_8_bits_is_read_in_full(content, values):
    stated = PixelRange(-100, 4000, stated=True)
    assert (decode(content, stated) == eight_bits(values, -100, 4000)).all()
    levels = check(content, stated)
    assert (levels.low, levels.high) == (float(values.min()), float(values.max()))
    assert levels.clipped_pixels == ((values > 4000) if values.ndim == 2 else (values > 4000).any(-1)).sum()
    if values.dtype.kind != "f":
        assert (decode(content, PixelRange(0, 4095)) == eight_bits(values, 0, 4095)).all()
        assert (decode(content) == eight_bits(values, 0, 65535)).all()


def test_a_file_that_states_its_range_is_taken_by_that(random):
    packed = (GRAY[..., None] >> np.arange(11, -1, -1) & 1).astype(np.uint8).reshape(20, -1)
    twelve = np.packbits(packed, axis=1)
    head = b"# its white\n30 20\n4095\n"
    contents = [
        b"P5\n" + head + GRAY.astype(">u2").tobytes(),
        b"P2\n" + head + b" ".join(b"%d" % value for value in GRAY.ravel()),
        tiff(np.zeros((20, 30), np.uint8), bits=12)[: -20 * 30] + twelve.tobytes(),
    ]
    for content in contents:
        assert (decode(content) == eight_bits(GRAY, 0, 4095)).all()
        assert (decode(content, None) == eight_bits(GRAY, 0, 4095)).all()
        assert check(content) is None
        # What the user says goes before it.
        assert (decode(content, PixelRange(0, 2000, stated=True)) == eight_bits(GRAY, 0, 2000)).all()


def test_the_lowest_value_is_white_where_a_tiff_says_so():
    assert (decode(tiff(GRAY, photometric=0), PixelRange(0, 4095)) == 255 - eight_bits(GRAY, 0, 4095)).all()
    assert (decode(tiff((RAMP / 4095).astype(np.float32), photometric=0)) == 255 - eight_bits(RAMP, 0, 4095)).all()


def test_transparency_of_16_bits_lies_on_white():
    alpha = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    share = (alpha / 65535)[..., None]
    expected = eight_bits(COLOUR, 0, 4095) * share + 255 * (1 - share)
    assert np.abs(decode(png16(np.dstack([COLOUR, alpha]), 6), PixelRange(0, 4095)) - expected).max() <= 0.51
    gray = decode(png16(np.stack([GRAY, alpha], -1), 4), PixelRange(0, 4095))
    assert np.abs(gray - (eight_bits(GRAY, 0, 4095) * share + 255 * (1 - share))).max() <= 0.51
    # One value that stands for transparent.
    keyed = decode(png16(GRAY, 0, (b"tRNS", struct.pack(">H", GRAY[3, 4]))), PixelRange(0, 4095))
    transparent = np.equal(GRAY, GRAY[3, 4])
    assert (keyed[transparent] == 255).all()
    assert (keyed[~transparent] == eight_bits(GRAY, 0, 4095)[~transparent]).all()


def test_exif_turns_images_of_16_bits_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("PNG", "TIFF"):
        content = stored(GRAY, form, exif=exif)
        assert (decode(content, PixelRange(0, 4095)) == np.rot90(eight_bits(GRAY, 0, 4095), -1)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stored((RAMP / 16).astype(np.float32), "TIFF"), r"floating-point values from 0 to 255\.938 are outside of 0..1"),
        (stored((GRAY.astype(np.int32) - 5), "TIFF"), "integer values from -5 to 4090 are outside of 0..65535"),
        (stored((GRAY.astype(np.int32) * 100), "TIFF"), "integer values from 0 to 409500 are outside"),
        (tiff(np.full((4, 5), 3_000_000_000, np.uint32)), r"from 3e\+09 to 3e\+09 are outside"),
        (tiff(np.full((4, 5), -7, np.int8)), "integer values from -7 to -7"),
        (stored(np.full((4, 5), np.inf, np.float32), "TIFF"), "not finite"),
        (tiff(np.zeros((4, 5), np.float16)), "a TIFF file of 1 floating-point value of 16 bits to a pixel"),
        (tiff(np.zeros((4, 5), np.float64)), "a TIFF file of 1 floating-point value of 64 bits to a pixel"),
        (tiff(np.zeros((4, 5, 3), np.float32)), "a TIFF file of 3 floating-point values of 32 bits to a pixel"),
        (tiff(COLOUR, planar=2, compression=8), "compressed separately"),
        (bytes(128) + b"DICM" + bytes(100), "a DICOM file"),
    ],
)
def test_values_without_a_known_black_and_white_are_refused(content, message):
    with pytest.raises(BrokenImageError, match=message):
        decode(content)


def test_colours_of_more_than_8_bits_in_jpeg_2000_are_refused():
    # Pillow brings them to 8 bits with a rounding that turns white into 0; here the header alone is changed to 12 bits.
    content = bytearray(stored(np.zeros((20, 30, 3), np.uint8), "JPEG2000", no_jp2=True))
    for component in range(3):
        content[42 + 3 * component] = 11
    with pytest.raises(BrokenImageError, match="more than 8 bits, which is not supported for JPEG 2000"):
        decode(bytes(content))
    content[42] = 0x87
    with pytest.raises(BrokenImageError, match="signed"):
        decode(bytes(content))


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


def test_a_png_may_state_its_significant_bits():
    content = png16(GRAY // 8, 0, (b"sBIT", b"\x0c"))
    assert check(content).bits == 12
    assert check(png16(COLOUR, 2, (b"sBIT", b"\x0a\x0c\x0a"))).bits == 12


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
    assert "images that have 8 bits or state their own range (1) are taken by that" in source.notes[0]
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
        ((RAMP / 16).astype(np.float32), r"floating-point images \(1\) hold values from 0 to 255\.9375 .*must lie in 0\.\.1"),
        (GRAY.astype(np.int32) - 1000, r"integer images \(1\) hold values from -1000 to 3095 .*must lie in 0\.\.65535"),
        (GRAY.astype(np.int32) * 50, r"from 0 to 204750 .*must lie in 0\.\.65535"),
    ],
)
def test_sources_of_unknown_black_and_white_are_refused_with_the_option(tmp_path, values, seen):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"{seen}; say which values are black and white with \?range=LOW\.\.HIGH"):
        open_source(f"folder:{tmp_path}")
    low = int(values.min())
    high = int(values.max()) + 1
    image = open_source(f"folder:{tmp_path}?range={low}..{high}")[0]["image"]
    assert (image == eight_bits(values, low, high)).all()


def test_floating_images_in_0_to_1_are_taken_as_they_are(tmp_path):
    Image.fromarray((RAMP / 8190).astype(np.float32)).save(tmp_path / "a.tif")
    source = open_source(f"folder:{tmp_path}")
    assert (source[0]["image"] == eight_bits((RAMP / 8190).astype(np.float32), 0, 1)).all()
    assert "taken to lie in 0..1" in source.notes[0]
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
        ValueError, match=r"0\.\.4095 in .*train.* and 0\.\.1023 in .*test.*Give one range for both, .*\?range=0\.\.4095"
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
        "in images of more than 8 bits the stated range 0..4095 becomes 0 to 255; what it clips is not counted"
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


def test_what_is_transparent_does_not_decide_the_range():
    alpha = np.full((20, 30), 65535, np.uint16)
    alpha[0] = 0
    hidden = COLOUR.copy()
    hidden[0] = 65535
    content = png16(np.dstack([hidden, alpha]), 6)
    assert check(content).high == COLOUR[1:].max()
    image = decode(content, PixelRange(0, 4095))
    assert (image[0] == 255).all()
    assert (image[1:] == eight_bits(COLOUR[1:], 0, 4095)).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [stored(GRAY), png16(OPAQUE, 6), tiff(COLOUR), tiff(COLOUR, compression=8, order=">"), tiff(RAMP.astype(np.float32)),
     stored(GRAY, "JPEG2000"), b"P6 30 20 65535\n" + COLOUR.astype(">u2").tobytes(), tiff(GRAY, planar=2)],
)  # fmt: skip
def test_damaged_files_of_more_than_8_bits_decode_or_are_refused_and_nothing_else(content, random):
    for trial in range(60):
        damaged = bytearray(content[: random.integers(1, len(content))] if trial % 3 == 0 else content)
        for place in random.integers(0, min(len(damaged), 300 if trial % 2 else len(damaged)), random.integers(1, 6)):
            damaged[place] = random.integers(256)
        for read in (check, lambda each: decode(each, PixelRange(-9, 9000, stated=True))):
            with contextlib.suppress(BrokenImageError):
                read(bytes(damaged))


def test_levels_merge_in_any_order():
    each = [
        Levels(floating, 1, 10, low, low + 5, f"{low}", f"{low}", low % 3) for low in range(6) for floating in (False, True)
    ]
    assert merge_levels(each) == merge_levels([*merge_levels(each[:5]), *merge_levels(each[5:])])
    assert [(found.images, found.low, found.high, found.highest) for found in merge_levels(each)] == [(6, 0, 10, "5")] * 2
