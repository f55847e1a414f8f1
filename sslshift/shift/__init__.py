"""Shift: the distance of training images from downstream images, and the diversity of either set.

Functions take feature arrays `[n, dim]`, one row per image. `frechet_distance` and the other distances return raw numbers;
`shift_index` puts one of them on a scale from 0 (another sample of the downstream data) to 1 (complete separation), with an
interval. Every number depends on the encoder of the features: report the encoder with it. It also depends on the number of
images: compare sets of equal size.

| file | what it holds |
|---|---|
| `distances/` | one file per distance: the function on whole features, and the sketch that streams |
| `index` | the shift index, its scale, and the checks of a calibration |
| `diversity` | Vendi score and effective rank |
| `neighbourhoods` | precision and recall, density and coverage, nearest neighbours |
| `layers` | VisualDNA over all layers of an encoder |
| `mixtures` | distances of planned mixtures from the sketches of their components |
| `survey/` | comparison of several sources with one target, for `python -m tools.shift` |

Sketches are for more images than fit in memory, over any number of hosts: make one per part and merge them.

| distance or score | sketch | error against the whole features |
|---|---|---|
| `frechet_distance` | `distances.frechet.Moments` | none |
| `rbf_mmd` | `distances.frechet.Moments` of `unit_rows` | bounded; the bound is smaller if all vectors are closer together |
| `visual_dna_distance` | `distances.visual_dna.Histograms` over `Ranges` | none |
| `layers.visual_dna_distance_of_layers` | `VisualDna` over `LayerRanges` | rounding at bin edges |
| `sliced_wasserstein` | `distances.sliced_wasserstein.Projections` | bounded |
| `kernel_distance` | `distances.kernel.KernelBlocks` | unbiased, with its standard error |
| `effective_rank`, `vendi_score` | `diversity.TriangularFactor` | none |

Classifiers and nearest neighbours need all images at once: `proxy_a_distance`, `precision_recall`, `density_coverage`,
`coverage_of`.

To add a distance, write one file in `distances/` and add one line to `DISTANCES` in `distances/__init__.py`. To add a number to
a survey, compute it in `survey/measure.py` and show it in `survey/report.py`.
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.data.noise import NoiseSource, noise_like
    from sslshift.shift._base import unit_rows
    from sslshift.shift.distances import DISTANCES, distance_of
    from sslshift.shift.distances.frechet import frechet_distance
    from sslshift.shift.distances.kernel import kernel_distance
    from sslshift.shift.distances.proxy_a import proxy_a_distance
    from sslshift.shift.distances.rbf_mmd import rbf_mmd
    from sslshift.shift.distances.sliced_wasserstein import sliced_wasserstein
    from sslshift.shift.distances.visual_dna import visual_dna_distance
    from sslshift.shift.diversity import effective_rank, vendi_score
    from sslshift.shift.index import DEFAULT_DISTANCE, ShiftIndex, ShiftScale, index_difference, shift_index
    from sslshift.shift.layers import LayerRanges, VisualDna, layer_profile
    from sslshift.shift.mixtures import blend
    from sslshift.shift.neighbourhoods import coverage_of, density_coverage, precision_recall

__all__ = [
    "DEFAULT_DISTANCE",
    "DISTANCES",
    "LayerRanges",
    "NoiseSource",
    "ShiftIndex",
    "ShiftScale",
    "VisualDna",
    "blend",
    "coverage_of",
    "density_coverage",
    "distance_of",
    "effective_rank",
    "frechet_distance",
    "index_difference",
    "kernel_distance",
    "layer_profile",
    "noise_like",
    "precision_recall",
    "proxy_a_distance",
    "rbf_mmd",
    "shift_index",
    "sliced_wasserstein",
    "unit_rows",
    "vendi_score",
    "visual_dna_distance",
]
