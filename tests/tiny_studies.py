"""Small studies and learners, for tests of several files."""

import dataclasses

from sslshift.study.declare import Study
from sslshift.study.learners import parse_learners

TINY = (
    "--sources=bundled:mnist@40,400; synthetic:noise?size=300@300",
    "--downstream=bundled:mnist",
    "--downstream_test=bundled:mnist/test",
    "--budget=1290",
    "--batch_size=64",
    "--seeds=2",
    "--untrained_seeds=2",
    "--labelled=300",
    "--shift_images=200",
    "--checkpoint_every=5",
    "--encoder=patch_mlp",
    "--head=32,16",
)


def tiny(*flags) -> Study:
    """The study that these flags declare."""
    kinds = {field.name: field.type for field in dataclasses.fields(Study)}
    values = {}
    for flag in (*TINY, *flags):
        name, _, text = flag.removeprefix("--").partition("=")
        values[name] = (*values.get(name, ()), text) if kinds[name] == tuple[str, ...] else kinds[name](text)
    return Study(**values)


def learner(**fields):
    """The only learner of a study."""
    (found,) = parse_learners(Study(**fields))
    return found
