"""Curation: finds the images that a source holds more than once or shares with a test split, and removes them.

    duplicates = find_duplicates(source)      # as a command: python -m tools.find_duplicates
    duplicates.effective_unique               # N less its near-duplicates
    source = deduplicated(source)             # the source without them; on a command line ?keep=FILE, see `sources.kept`
    leaks = find_leaks(source, test, split)   # test images that are also in the pretraining source

Pictures that differ in colour alone are different (`likeness`). Images that are alike and have different labels are kept and
reported unless the caller chooses otherwise (`Duplicates.kept`). No encoder is trained here: callers pass features as arrays.

The files, from the lowest layer up: `data.perceptual_hash` (64 bits per picture) and `data.likeness` (decides whether two
images show one picture) take arrays only, so that imports can store hashes. `identities` reads a source for both. `hamming`
and `cosine` search for all near pairs of hashes and of features. `pairs` reduces these pairs to a few. `duplicates` and `leaks`
answer the two questions, and `report` writes the answers for people.

To add a curation step, write one file here with one function from a source to a result, and export it in this file. Tests:
`test_perceptual_hash`, `test_pairs`, `test_duplicates`, `test_leaks` and `test_colour_duplicates` cover the files with these
names; `test_find_duplicates` runs the command.
"""

from sslshift.data.curation.cosine import near_pairs_between_by_features, near_pairs_by_features
from sslshift.data.curation.duplicates import (
    Duplicates,
    deduplicated,
    effective_unique,
    find_duplicates,
    groups_of,
    representatives,
)
from sslshift.data.curation.hamming import near_pairs_between_by_hash, near_pairs_by_hash
from sslshift.data.curation.leaks import Leaks, find_leaks
from sslshift.data.curation.pairs import Pairs, exact_pairs, exact_pairs_between
from sslshift.data.perceptual_hash import perceptual_hash, perceptual_hashes
from sslshift.data.sources.kept import load_kept, save_kept

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
