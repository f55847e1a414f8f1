"""Images inside a page, as PNG data, so that the page loads no other file."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image


class Picture(NamedTuple):
    """Image for a page.

    Attributes:
      uri: `data:` URI, see `png_uri`.
      name: alternative text, also shown as a tooltip; empty if one text describes the whole group.
    """

    uri: str
    name: str = ""


class Captioned(NamedTuple):
    """One or more images above one caption; see the macro `gallery`.

    Attributes:
      pictures: the images, side by side; empty if an image cannot be read, which the caption then reports.
      caption: lines of the caption.
    """

    pictures: Sequence[Picture]
    caption: Sequence[str]


def png_uri(picture: Image.Image, most: tuple[int, int] = (128, 128)) -> str:
    """Returns an image as a `data:` URI of a PNG file, reduced if it is too large; the proportions of its sides are kept.

    Example:
      >>> png_uri(Image.new("L", (2, 2)))[:22]
      'data:image/png;base64,'

    Args:
      picture: the image.
      most: largest width and height in pixels. The default is twice the size on the page, for screens of high resolution.
    """
    # Small images keep their pixels: the browser enlarges them without blur, see `image-rendering` in page.css.
    if picture.width > most[0] or picture.height > most[1]:
        # `thumbnail` changes the image itself, which belongs to the caller.
        picture = picture.copy()
        picture.thumbnail(most, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
