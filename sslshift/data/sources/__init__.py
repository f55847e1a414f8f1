"""Sources: random-access collections of images behind one function, `open_source(uri)`.

To add a kind of source, write a subclass of `base.Source` in a file here, a function `_open_KIND` in `opening.py`, and one
line for its scheme and options in `SCHEMES` there. A study, a mixture and every tool then accept the new scheme. Describe it in
the docstring of `open_source` and in the tables of URIs in README.md and tools/README.md.

Readers: `files` (folders and lists of image files), `array_record` (imports, and ArrayRecord files of other programs),
`prepared` (TensorFlow Datasets), `memory` (arrays, generated images, a cache). Files that the readers use: `uri` (the grammar
of names), `walk` (the files below a folder), `layout` (folders that are classes or splits), `lists` and `labels` (CSV and
Parquet lists, names of classes), `manifest` (the format of an import), `recognise` (kinds of files that a reader cannot use).
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.data.sources.base import PartialSource, Source, digests, readable
    from sslshift.data.sources.memory import ArraySource, CachedSource, SyntheticSource, cached
    from sslshift.data.sources.opening import SCHEMES, open_source
    from sslshift.data.sources.uri import Uri, parse_uri

__all__ = [
    "SCHEMES",
    "ArraySource",
    "CachedSource",
    "PartialSource",
    "Source",
    "SyntheticSource",
    "Uri",
    "cached",
    "digests",
    "open_source",
    "parse_uri",
    "readable",
]
