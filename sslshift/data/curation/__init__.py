"""Curation: which images of a source are there twice, which are also in a test split, and the source without them.

    duplicates = find_duplicates(source)      # as a command: python -m tools.find_duplicates
    duplicates.effective_unique               # N less its near-duplicates
    source = deduplicated(source)             # a source like any other; from a command line ?keep=FILE, see `kept`
    leaks = find_leaks(source, test, split)   # test images that are also pretrained on

Pictures that differ in colour alone are different (`likeness`), and images of different labels that are alike are kept and
reported unless somebody asks otherwise (`Duplicates.kept`, `labels`). Hashes that an import stored find candidates as before.

From the ground up: `perceptual_hash` (64 bits of a picture) and `likeness` (whether two pictures are one) look at images,
`identities` reads a source for both; `hamming` and `cosine` find all near pairs of hashes and of features, in `blocks`, and
`linking` makes few pairs of them; `pairs` is both in one call. `groups` counts, `duplicates` and `leaks` answer the questions,
`kept` and `page` write the answers. Nothing here is trained: features come as arrays.
"""

from sslshift.data.curation.duplicates import Duplicates, deduplicated, find_duplicates
from sslshift.data.curation.groups import effective_unique, groups_of, representatives
from sslshift.data.curation.kept import load_kept, save_kept
from sslshift.data.curation.leaks import Leaks, find_leaks
from sslshift.data.curation.linking import Pairs
from sslshift.data.curation.pairs import (
    exact_pairs,
    exact_pairs_between,
    near_pairs_between_by_features,
    near_pairs_between_by_hash,
    near_pairs_by_features,
    near_pairs_by_hash,
)
from sslshift.data.curation.perceptual_hash import perceptual_hash, perceptual_hashes

__all__ = [
    "Duplicates",
    "Leaks",
    "Pairs",
    "deduplicated",
    "effective_unique",
    "exact_pairs",
    "exact_pairs_between",
    "find_duplicates",
    "find_leaks",
    "groups_of",
    "load_kept",
    "near_pairs_between_by_features",
    "near_pairs_between_by_hash",
    "near_pairs_by_features",
    "near_pairs_by_hash",
    "perceptual_hash",
    "perceptual_hashes",
    "representatives",
    "save_kept",
]
