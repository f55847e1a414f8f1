"""One spelling for names of tensors that training code wraps, chunks or numbers in different ways."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import numpy as np

from sslshift.models.reference.naming import shown

# Words that torch.compile, FSDP and activation checkpointing insert anywhere in a name.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)\.")
_CHUNKED = re.compile(r"((?:.*\.)?blocks)\.(\d+)\.(\d+)\.(.+)")
_STAGE = re.compile(r"((?:.*\.)?)(\d+)\.0\.conv1\.weight")
_SPELLINGS = (
    (re.compile(r"(?<![^.])encoder\.layers\.encoder_layer_(\d+)\."), r"encoder.layers.\1."),
    (re.compile(r"\.self_attention\.in_proj_(weight|bias)$"), r".self_attention.in_proj.\1"),
    (re.compile(r"(?<=\.)mlp\.linear_1\."), "mlp.0."),
    (re.compile(r"(?<=\.)mlp\.linear_2\."), "mlp.3."),
    (re.compile(r"(?<![^.])(layer\d+\.\d+)\.shortcut\."), r"\1.downsample."),
)


def plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns a dict from the names of the original architecture to the names in the file.

    Wrappers are removed, blocks in chunks (`blocks.0.3.`, as DINOv2 saves them) are numbered consecutively, and the layers of a
    ResNet inside an `nn.Sequential` (`0.weight`, `4.0.conv1.weight`, as lightly saves it) get torchvision's names.

    Example:
      >>> import numpy as np
      >>> list(plain_names({"_orig_mod.blocks.0.0.norm1.bias": np.ones(3), "_orig_mod.blocks.1.1.norm1.bias": np.ones(3)}))
      ['blocks.0.norm1.bias', 'blocks.1.norm1.bias']

    Raises:
      ValueError: two names become equal.
    """
    plain = {name: _WRAPPERS.sub("", name) for name in tensors}
    for pattern, spelling in _SPELLINGS:
        plain = {name: pattern.sub(spelling, each) for name, each in plain.items()}
    for rename in (_counted_through(plain.values()), _layers_named(plain, tensors)):
        plain = {name: rename(each) for name, each in plain.items()}
    written: dict[str, str] = {}
    for name, each in plain.items():
        if each in written:
            raise ValueError(
                f"its tensors {shown(written[each])} and {shown(name)} have the same name without wrappers and chunks."
            )
        written[each] = name
    return written


def _counted_through(names: Iterable[str]) -> Callable[[str], str]:
    """Returns a function that numbers blocks in chunks consecutively, and leaves all other names as they are."""
    names = list(names)
    chunks: dict[str, set[tuple[int, int]]] = {}
    for name in names:
        if match := _CHUNKED.fullmatch(name):
            chunks.setdefault(match[1], set()).add((int(match[2]), int(match[3])))
    # If only some of the blocks are in chunks, the order of all blocks would be a guess.
    mixed = {stem for stem in chunks if any(name.startswith(f"{stem}.") and not _CHUNKED.fullmatch(name) for name in names)}
    orders = {stem: _order(sorted(places)) for stem, places in chunks.items() if stem not in mixed}

    def rename(name):
        match = _CHUNKED.fullmatch(name)
        number = match and orders.get(match[1], {}).get((int(match[2]), int(match[3])))
        return name if number is None else f"{match[1]}.{number}.{match[4]}"

    return rename


def _order(places: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Returns the number of each block by (chunk, position in the chunk); empty if the positions are not consecutive."""
    through = [place for _, place in places] == list(range(len(places)))
    chunks = [[place for _, place in chunk] for _, chunk in groupby(places, key=lambda place: place[0])]
    # DINOv2 continues counting from chunk to chunk; other code starts at 0 in each chunk.
    anew = all(chunk == list(range(len(chunk))) for chunk in chunks)
    without_gap = sorted({chunk for chunk, _ in places}) == list(range(len(chunks)))
    return {place: number for number, place in enumerate(places)} if without_gap and (through or anew) else {}


def _layers_named(plain: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> Callable[[str], str]:
    """Returns a function that renames the layers of ResNets in an `nn.Sequential` to torchvision's names."""
    written = {each: name for name, each in plain.items()}
    stages: dict[str, list[int]] = {}
    for name in written:
        if match := _STAGE.fullmatch(name):
            stages.setdefault(match[1], []).append(int(match[2]))
    renamed = {}
    for prefix, numbers in stages.items():
        first = min(numbers)
        stem = written.get(f"{prefix}0.weight")
        side = tensors[stem].shape[-1] if stem and tensors[stem].ndim == 4 else 0
        # Convolution, norm, ReLU and max-pool come before; the stem of small images has no pooling, so it may be shorter.
        if sorted(numbers) == list(range(first, first + 4)) and (first == 4 or (first in (2, 3) and side == 3)):
            renamed |= {f"{prefix}0.": f"{prefix}conv1.", f"{prefix}1.": f"{prefix}bn1."}
            renamed |= {f"{prefix}{first + stage}.": f"{prefix}layer{stage + 1}." for stage in range(4)}
    # Longer names come first: a regular expression takes the first alternative that fits.
    numbered = re.compile(r"|".join(map(re.escape, sorted(renamed, key=len, reverse=True)))) if renamed else None

    def rename(name):
        match = numbered.match(name) if numbered else None
        return name if match is None else renamed[match[0]] + name[match.end() :]

    return rename
