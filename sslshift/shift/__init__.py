"""Shift: how far the images trained on are from the downstream images.

Functions take feature arrays `[n, dim]`. `frechet_distance` is the raw distance, `shift_index` puts it on a scale from 0
(another sample of the downstream data) to 1 (noise) with an interval. A number means nothing without the encoder behind
the features: say which it was.
"""

from sslshift.shift.frechet import frechet_distance, frechet_distance_of_moments
from sslshift.shift.index import ShiftIndex, noise_like, shift_index
from sslshift.shift.moments import Moments

__all__ = ["Moments", "ShiftIndex", "frechet_distance", "frechet_distance_of_moments", "noise_like", "shift_index"]
