"""Sources, subsets, mixtures, the sample plan, the pipeline and the views.

The way of an image: `sources.open_source(uri)` gives random access, to what `records` imported once if it is a large
collection; `curation` finds duplicates and leaks to test images; a `mixture` (perhaps written as `mixture_text`) says how many
different images of which source are seen in which stage; the `plan` turns that into the sample at every position; the
`pipeline` reads a step's batch as uint8; `views` are made on the device.
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

# The methods need the views alone, and these nothing beyond JAX.
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
