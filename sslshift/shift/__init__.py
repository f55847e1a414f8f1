"""Shift: how far the images trained on are from the downstream images, and how diverse either are.

Functions take feature arrays `[n, dim]`. `frechet_distance` and its kin are raw distances, `shift_index` puts one on a scale
from 0 (another sample of the downstream data) to 1 (noise) with an interval. A number means nothing without the encoder
behind the features: say which it was. Every distance depends on the number of images: compare at equal numbers.

For more images than fit in memory, over any number of hosts, stream sketches and merge them:

| distance or score | sketch | error against the whole features |
|---|---|---|
| `frechet_distance` | `Moments` | none |
| `rbf_mmd` | `Moments` of `unit_rows` | bounded, the less the nearer all vectors are |
| `visual_dna_distance` | `Histograms` over `Ranges` | none |
| `visual_dna_distance_of_layers` | `VisualDna` over `LayerRanges` | rounding at bin edges |
| `sliced_wasserstein` | `Projections` | bounded |
| `kernel_distance` | `KernelBlocks` | unbiased, with its standard error |
| `effective_rank`, `vendi_score` | `TriangularFactor` | none |

A planned mixture's sketch comes from its components': `mixture_moments`, `mixture_histograms`, `LayerMixture`, and
`KernelTable`, which has its standard error too.

Classifiers and nearest neighbours need all images at once: `proxy_a_distance`, `precision_recall`, `density_coverage`,
`coverage_of`.
"""

from sslshift.shift._features import unit_rows
from sslshift.shift.density_coverage import Coverage, DensityCoverage, coverage_of, density_coverage
from sslshift.shift.distances import DISTANCES, Distance, distance_of
from sslshift.shift.effective_rank import effective_rank, effective_rank_of_factor
from sslshift.shift.estimate import Estimate
from sslshift.shift.frechet import frechet_distance, frechet_distance_of_moments
from sslshift.shift.histograms import HistogramMixture, Histograms, Ranges
from sslshift.shift.index import (
    DEFAULT_DISTANCE,
    IndexDifference,
    ShiftIndex,
    ShiftScale,
    index_difference,
    noise_like,
    shift_index,
)
from sslshift.shift.kernel_distance import KernelBlocks, kernel_distance, kernel_distance_estimate
from sslshift.shift.kernel_table import KernelTable, kernel_distance_of_mixture
from sslshift.shift.layer_profile import (
    LayerProfile,
    Level,
    layer_distances,
    layer_means,
    layer_profile,
    visual_dna_distance_of_layers,
)
from sslshift.shift.layers import LayerRanges, VisualDna
from sslshift.shift.mixtures import LayerMixture, mixture_histograms, mixture_moments
from sslshift.shift.moments import MixtureMoments, Moments
from sslshift.shift.neighbours import nearness
from sslshift.shift.noise import NoiseSource
from sslshift.shift.precision_recall import PrecisionRecall, precision_recall
from sslshift.shift.projections import Projections, sliced_wasserstein_of_projections
from sslshift.shift.proxy_a_distance import TwoSampleTest, classifier_two_sample, proxy_a_distance
from sslshift.shift.rbf_mmd import rbf_mmd, rbf_mmd_of_moments
from sslshift.shift.sliced_wasserstein import sliced_wasserstein, sliced_wasserstein_estimate
from sslshift.shift.survey import Measured, RawDistance, Survey, survey
from sslshift.shift.triangular_factor import TriangularFactor
from sslshift.shift.vendi_score import vendi_score, vendi_score_of_factor
from sslshift.shift.visual_dna import visual_dna_distance, visual_dna_distance_of_histograms, visual_dna_distances

__all__ = [
    "DEFAULT_DISTANCE",
    "DISTANCES",
    "Coverage",
    "DensityCoverage",
    "Distance",
    "Estimate",
    "HistogramMixture",
    "Histograms",
    "IndexDifference",
    "KernelBlocks",
    "KernelTable",
    "LayerMixture",
    "LayerProfile",
    "LayerRanges",
    "Level",
    "Measured",
    "MixtureMoments",
    "Moments",
    "NoiseSource",
    "PrecisionRecall",
    "Projections",
    "Ranges",
    "RawDistance",
    "ShiftIndex",
    "ShiftScale",
    "Survey",
    "TriangularFactor",
    "TwoSampleTest",
    "VisualDna",
    "classifier_two_sample",
    "coverage_of",
    "density_coverage",
    "distance_of",
    "effective_rank",
    "effective_rank_of_factor",
    "frechet_distance",
    "frechet_distance_of_moments",
    "index_difference",
    "kernel_distance",
    "kernel_distance_estimate",
    "kernel_distance_of_mixture",
    "layer_distances",
    "layer_means",
    "layer_profile",
    "mixture_histograms",
    "mixture_moments",
    "nearness",
    "noise_like",
    "precision_recall",
    "proxy_a_distance",
    "rbf_mmd",
    "rbf_mmd_of_moments",
    "shift_index",
    "sliced_wasserstein",
    "sliced_wasserstein_estimate",
    "sliced_wasserstein_of_projections",
    "survey",
    "unit_rows",
    "vendi_score",
    "vendi_score_of_factor",
    "visual_dna_distance",
    "visual_dna_distance_of_histograms",
    "visual_dna_distance_of_layers",
    "visual_dna_distances",
]
