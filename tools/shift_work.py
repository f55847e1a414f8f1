"""The encoder of `tools.shift` at work on its canvas; what it gives is kept."""

import itertools
from pathlib import Path

import numpy as np
from rich.console import Console

from sslshift.data.decode import Canvas
from sslshift.data.noise import NoiseSource
from sslshift.shift.layers import LayerProfile
from sslshift.shift.survey import Survey
from sslshift.transfer.encoders import NamedEncoder
from sslshift.transfer.features import Encoder, NetworkEncoder, extract
from tools.progress import counting_images
from tools.shift_inputs import Encoded, Images, encode_images
from tools.shift_layers import Part, profiles


class Work:
    """The encoder on its canvas, and where features are kept."""

    def __init__(self, named: NamedEncoder, encode: Encoder, canvas: Canvas, out: Path, seed: int, console: Console):
        self.named = named
        self.encode = encode
        self.canvas = canvas
        self.out = out
        self._seed = seed
        self._console = console

    def encoded(self, images: Images, target: Encoded | None = None) -> Encoded:
        with counting_images(self._console, f"images of {images.declared.name}") as on_images:
            return encode_images(
                images,
                self.encode,
                self.canvas,
                self.out / "features",
                by_features=self.named.trained,
                target=target,
                on_images=on_images,
            )

    def noise(self, target: Encoded) -> Encoded:
        source = NoiseSource(target.reader, target.kept, self.canvas, self._seed)
        with counting_images(self._console, "noise") as on_images:
            indices = np.arange(len(source))
            cache = self.out / "features"
            features = extract(self.encode, source, indices, self.canvas, cache=cache, on_images=on_images).features
        return Encoded("noise", features, {}, None, indices, None, source)

    def layers(
        self, found: Survey, sets: dict[str, Encoded], target: Encoded, noise: Encoded
    ) -> tuple[dict[str, LayerProfile], LayerProfile] | str:
        """Profiles over the encoder's layers, or why there are none."""
        if not isinstance(self.encode, NetworkEncoder):
            return f"{self.named.title.capitalize()} have no layers."
        mixtures = {name: sets[name].about["shares"] for name in found.measured if sets[name].reader is None}
        needed = {*found.measured, *itertools.chain(*mixtures.values())}.difference(mixtures)
        sources = {name: Part(each.reader, each.kept) for name, each in sets.items() if name in needed}
        parts = [Part(each.reader, each.kept) for each in (target, noise)]
        with counting_images(self._console, "images in all layers") as on_images:
            try:
                encoder = self.encode.pretrained
                folder = self.out / "dna"
                return profiles(encoder, self.canvas, parts[0], sources, mixtures, parts[1], folder, on_images)
            except ValueError as error:
                return f"There is no profile over layers: {error}"
