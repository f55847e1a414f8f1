"""Sources: random-access collections of images behind one function, `open_source(uri)`."""

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
