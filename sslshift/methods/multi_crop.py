"""Multi-crop: further views that show a small part of an image, for the methods that take any number of views."""

import dataclasses

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.models import PatchMLP


def with_local_views(
    encoder: nn.Module, views: tuple[ViewSettings, ...], count: int, *, size: int, crop_scale: float
) -> tuple[ViewSettings, ...]:
    """Returns the settings of the views with those of the local views behind them.

    Args:
      encoder: with a `size`, one that takes images of that size too.
      views: of an image; if there are local views, these become the global ones.
      count: number of local views; 0 leaves the views as they are.
      size: side of the local views in pixels; 0: that of the images.
      crop_scale: the largest share of an image's area in a local view, and then the smallest in a global one.

    Raises:
      ValueError: a number is negative, or the local views are of a size that the encoder does not take.
    """
    if min(count, size) < 0:
        raise ValueError(f"local_views and local_size must not be negative, but are {count} and {size}.")
    if size and not count:
        raise ValueError("A local_size without local_views would change nothing: say how many local views there are.")
    if size and isinstance(encoder, PatchMLP):
        raise ValueError("patch_mlp takes images of one size only: leave local_size at 0, or use a ResNet or a ViT.")
    if not count:
        return views
    smallest = min(0.05, crop_scale)
    local = dataclasses.replace(
        views[0], min_crop_scale=smallest, max_crop_scale=crop_scale, size=size, solarise_probability=0.0
    )
    return (*(dataclasses.replace(view, min_crop_scale=crop_scale) for view in views), *[local] * count)
