"""Statistical inference for downstream metrics: arrays in, named tuples out.

A metric varies with the choice of test images, the training seed of the encoder, and, in few-shot evaluations, the draw of
labelled images. All runs share their test images, so more seeds do not reduce the variance from the choice of images. Each of
these sources contributes to the variance of a mean:

- images: the variance of the mean over runs in a bootstrap that resamples the images once for all runs.
- seeds, draws of the subset, draws of labelled images: each factor contributes the variance of its levels' means divided by
  their number, minus the part that the images explain, because the bootstrap already counts that part. The factors are
  crossed, so that a mean over three seeds and 20 labelled draws has three seeds and 20 labelled draws, not 60 of anything.

Half the width of an interval is Student's t with Satterthwaite's degrees of freedom times the root of the sum. If two runs
differ by far more than the images explain, that approximation covers the true value in 87% of cases instead of 95% (three
runs: 92%). An interval is therefore never narrower than that of Student's t over the levels of each factor. The values of
runs are assumed to be normally distributed.

Where hardly any image is wrong, or two encoders disagree on hardly any, a bootstrap sees too little: intervals are then at
least score intervals (Wilson's, and Tango's for differences), which keep a width even if all images are right. If images belong
to groups, such as the frames of a video, groups are resampled whole.

`estimation` has the bootstrap and the variance components, `contrasts` the variances that the kinds of a table share and the
differences that a study can show, `proportions` the score intervals, `outliers` the search for bad runs and medians that they
hardly move, `scores` the intervals and comparisons of metrics, `trends` the slopes of a metric in diversity and in shift, and
`multiplicity` the correction for many tests. The tests `test_intervals.py`, `test_statistics.py`, `test_proportions.py`,
`test_paired.py`, `test_outliers.py` and `test_contrasts.py` test coverage by simulation; a new interval needs such a test.
"""

from sslshift.transfer.inference.contrasts import POWER, Contrast, PlannedTable, moderated, pooled_with, shrunken
from sslshift.transfer.inference.estimation import (
    FACTORS,
    REFERENCE_SEEDS,
    ROUNDING,
    SEEDS,
    Bootstrapped,
    CrossedDeviations,
    Estimate,
    VarianceComponent,
    bootstrap,
    count_units,
    crossed_deviations,
    estimate,
    estimate_mean,
    variance_components,
)
from sslshift.transfer.inference.multiplicity import holm
from sslshift.transfer.inference.outliers import OutlyingRun, find_outliers, robust_means
from sslshift.transfer.inference.proportions import tango, widened_difference, widened_score, wilson
from sslshift.transfer.inference.scores import Comparison, Interval, bootstrap_interval, compare, mcnemar, runs_interval
from sslshift.transfer.inference.trends import (
    FEWEST_SOURCES,
    change_contrast,
    curvature_weights,
    slope_weights,
    slopes,
)

__all__ = [
    "FACTORS",
    "FEWEST_SOURCES",
    "POWER",
    "REFERENCE_SEEDS",
    "ROUNDING",
    "SEEDS",
    "Bootstrapped",
    "Comparison",
    "Contrast",
    "CrossedDeviations",
    "Estimate",
    "Interval",
    "OutlyingRun",
    "PlannedTable",
    "VarianceComponent",
    "bootstrap",
    "bootstrap_interval",
    "change_contrast",
    "compare",
    "count_units",
    "crossed_deviations",
    "curvature_weights",
    "estimate",
    "estimate_mean",
    "find_outliers",
    "holm",
    "mcnemar",
    "moderated",
    "pooled_with",
    "robust_means",
    "runs_interval",
    "shrunken",
    "slope_weights",
    "slopes",
    "tango",
    "variance_components",
    "widened_difference",
    "widened_score",
    "wilson",
]
