"""Pictures for tests of curation: a source that counts its reads, and the changes that copies of a picture undergo."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from sslshift.data import Source


class Pictures(Source):
    """Images of any sizes in a list; counts how often each is read."""

    def __init__(self, images, name="memory:pictures", stored=None):
        super().__init__(name, fingerprint=f"{len(images)} pictures")
        self.images = images
        self.stored = stored
        self.reads = np.zeros(len(images), int)

    def __len__(self):
        return len(self.images)

    def image(self, index, canvas=None):
        self.reads[index] += 1
        return self.images[index]

    def stored_identities(self):
        return self.stored


def jpeg(image, quality):
    content = io.BytesIO()
    Image.fromarray(image.squeeze()).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)).reshape(image.shape)


def resized(image, factor):
    size = [round(side * factor) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image.squeeze()).resize(size, Image.Resampling.BICUBIC)).reshape(*size[::-1], -1)


def brighter(image, levels):
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


def contrasted(image, factor):
    return np.clip(image * factor + 0.5, 0, 255).astype(np.uint8)


CHANGES = {
    "none": lambda image: image.copy(),
    "jpeg 75": lambda image: jpeg(image, 75),
    "half": lambda image: resized(image, 0.5),
    "three quarters": lambda image: resized(image, 0.75),
    "twice": lambda image: resized(image, 2),
    "brighter": lambda image: brighter(image, 12),
    "contrast": lambda image: contrasted(image, 1.1),
    "cut at two sides": lambda image: image[1:, 1:],
    "cut at all sides": lambda image: image[1:-1, 1:-1],
}


def png_header(width: int, height: int) -> bytes:
    """Returns the start of a PNG that announces a size, without any pixels."""
    chunks = [b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0]), b"IDAT", b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
