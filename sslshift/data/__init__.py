"""Sources, subsets, mixtures, the sample plan, the pipeline and the views: from a URI to the views of a training step.

An image passes through these steps. `sources` opens a URI for random access to its images, possibly after `records` has
imported a large collection. A `mixture`, possibly written as text (`mixture_text`) and resolved for a budget
(`mixture_resolve`), defines the number of different images of each source in each stage. The `plan` returns the sample at every
position of the budget. The `pipeline` reads the batch of a step as uint8. The `views` are made on the device.

    source -> mixture -> plan -> pipeline -> views

The other files: `curation` finds duplicates and leaks to test images. `preview` shows a plan before training. `split` holds out
labelled images. `corruptions`, `noise`, `signals` and `synthetic` generate images.

Files, from the lowest layer up:
  `ranges`, `metadata`, `deep`, `decode`: bytes of a file to uint8, with one exception for all faults of files.
  `perceptual_hash`, `likeness`: comparisons of pictures as arrays, which imports and curation share.
  `permutation`: seeded orders that need no memory; `subset` and `split` are built on it.

To change:
  a kind of source: its class in a file of `sources/`, and its function and line in `sources/opening.py`.
  a generated source: its function and one line in `GENERATORS`, both in `synthetic.py`.
  a curation step: one file in `curation/`, and one line in its `__init__.py`.
  a way to draw subsets: `class_order` in `subset.py`, and one name in `SUBSETS` of `mixture.py`.

Tests have the name of the file that they test (`test_plan`, `test_mixture`, `test_decode`, `test_metadata`, `test_pipeline`,
`test_views`, ...). `test_pixel_range` covers images of more than 8 bits from the file to the source. The docstrings of
`sources`, `records` and `curation` list tests with other names.
"""

from typing import TYPE_CHECKING

from sslshift.extras import lazy_names

if TYPE_CHECKING:
    from sslshift.data.mixture import Component, Mixture, Stage
    from sslshift.data.mixture_resolve import resolve
    from sslshift.data.mixture_text import parse_mixture
    from sslshift.data.pipeline import open_reader
    from sslshift.data.plan import SamplePlan
    from sslshift.data.sources import ArraySource, Source, open_source

__all__ = [
    "ArraySource",
    "Component",
    "Mixture",
    "SamplePlan",
    "Source",
    "Stage",
    "open_reader",
    "open_source",
    "parse_mixture",
    "resolve",
]

# Methods import only the views, and the views import only JAX. The other names are therefore loaded at first use.
__getattr__ = lazy_names(
    __name__,
    {
        "ArraySource": "sources",
        "Component": "mixture",
        "Mixture": "mixture",
        "SamplePlan": "plan",
        "Source": "sources",
        "Stage": "mixture",
        "open_reader": "pipeline",
        "open_source": "sources",
        "parse_mixture": "mixture_text",
        "resolve": "mixture_resolve",
    },
)
