"""Evaluation of a study's encoders: the encoders of its runs, and the baselines for comparison.

Baselines are raw pixels, each learner's encoder with random weights, and the encoder of `--init` as it is. Their folders are
named `floors/...`, and their rows in the results table have the kind `floor`, as in earlier versions.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from sslshift.models import ENCODER, PatchResNet, ResNet, load_encoder
from sslshift.models.description import describe
from sslshift.storage import Store
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.training.loop import initial_state
from sslshift.transfer.encoders import branches_on
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, pixel_encoder
from sslshift.transfer.scores import EvaluatedEncoder, evaluate_stored

UNTRAINED = "untrained encoder"
INITIAL = "initial encoder"
PIXELS = "raw pixels"


def evaluate_run(
    opened: Opened,
    store: Store,
    folder: Path,
    on_progress: Callable[[str, int, int], None] = lambda part, done, total: None,
) -> EvaluatedEncoder:
    """Returns the scores of a trained run's encoder on every task.

    Args:
      opened: the study.
      store: store that keeps the scores.
      folder: folder of the run.
      on_progress: see `transfer.protocol.evaluate`.

    Raises:
      NotStoredError: scores are missing, and the store is read only.
      ValueError: the folder has lost its encoder.
    """

    def encoder() -> NetworkEncoder:
        if not (folder / ENCODER).exists():
            raise ValueError(f"{folder} has lost its {ENCODER}; delete that folder, and the same command trains the run again.")
        return NetworkEncoder(load_encoder(folder / ENCODER))

    design = opened.design
    return evaluate_stored(store, encoder, opened.tasks, design.evaluations, design.features, folder, on_progress=on_progress)


def evaluate_pixels(opened: Opened, store: Store, progress: Progress) -> EvaluatedEncoder:
    """Returns the scores of raw pixels."""
    return _evaluate_baseline(opened, store, lambda: pixel_encoder, "pixels", "baseline: raw pixels", progress)


def evaluate_untrained(opened: Opened, store: Store, learner: Learner, seed: int, progress: Progress) -> EvaluatedEncoder:
    """Returns the scores of a learner's encoder before training, see `untrained_encoder`.

    Methods that start from the same weights share one evaluation.
    """
    # Only digest and evaluation need the encoder. When a study continues, both are on disk and no encoder is built.
    encoder = functools.cache(lambda: untrained_encoder(opened, learner, seed))
    name = f"start-{'-'.join(learner.key)}-s{seed}{'-branches_on' if has_silent_branches(learner) else ''}"
    folder = opened.design.out / "floors" / name
    start = store.remembered(folder, untrained_record(learner, seed), lambda: {"weights": _weights_digest(encoder())})
    # The folder is named by the weights, so that methods that start from the same weights share one evaluation.
    several = len({each.settings.encoder for each in opened.learners}) > 1
    which = learner.settings.encoder if several else "encoder"
    what = f"baseline: untrained {which}, seed {seed}"
    return _evaluate_baseline(opened, store, encoder, f"untrained-{start['weights']}", what, progress)


# By method and encoder.
InitialScores = Mapping[tuple[str, str], EvaluatedEncoder]


def evaluate_initial(opened: Opened, store: Store, progress: Progress) -> InitialScores:
    """Returns the scores of the encoder that each learner continues from, as it is; empty without --init."""
    found: dict[tuple[str, str], EvaluatedEncoder] = {}
    # Methods that continue from the same weights in the same arithmetic share one evaluation.
    by_name: dict[str, EvaluatedEncoder] = {}
    for learner in opened.learners if opened.design.declared.init else ():
        encoder = functools.partial(initial_encoder, opened, learner)
        # The name has the digest of the file and not of these weights, so that they need not be computed again.
        name = f"initial-{learner.settings.initial_digest[:12]}-{learner.settings.dtype}"
        what = "baseline: the encoder of --init as it is"
        if name not in by_name:
            by_name[name] = _evaluate_baseline(opened, store, encoder, name, what, progress)
        found[learner.key] = by_name[name]
    return found


def initial_record(learner: Learner) -> dict:
    """Returns everything that the scores of a learner's initial encoder depend on, apart from the tasks."""
    return {name: learner.record[name] for name in ("method", "encoder", "dtype", "canvas", "init")}


def initial_encoder(opened: Opened, learner: Learner) -> NetworkEncoder:
    """Returns the encoder that a learner's training continues from, in the arithmetic of the learner."""
    method = learner.training.method
    own = {kind: {"encoder": value} for kind, value in learner.training.initial.variables.items()}
    return NetworkEncoder(encoder_of(method, own, opened.canvas))


def untrained_record(learner: Learner, seed: int) -> dict:
    """Returns everything that the scores of a learner's untrained encoder depend on, apart from the tasks."""
    return learner.record | {"seed": seed} | baseline_record(learner)


def baseline_record(learner: Learner) -> dict:
    """Returns the difference between the untrained encoder and the start of training; empty if they are the same."""
    return {"floor": "residual branches on"} if has_silent_branches(learner) else {}


def has_silent_branches(learner: Learner) -> bool:
    """Returns whether the residual branches of a learner's encoder add nothing when training starts."""
    return isinstance(learner.settings.module, ResNet | PatchResNet)


def _evaluate_baseline(
    opened: Opened, store: Store, encoder: Callable[[], Encoder], name: str, what: str, progress: Progress
) -> EvaluatedEncoder:
    design = opened.design
    folder = design.out / "floors" / name
    with progress.evaluating(what) as work:
        evaluated = evaluate_stored(
            store, encoder, opened.tasks, design.evaluations, design.features, folder, on_progress=work.on_progress
        )
    progress.say_scores(what, evaluated.scores[opened.task.name])
    return evaluated


def untrained_encoder(opened: Opened, learner: Learner, seed: int) -> NetworkEncoder:
    """Returns a learner's encoder with random weights, with its residual branches switched on.

    Training starts ResNets with zero-initialised branches: the last scale of each branch is 0. Such a network computes almost
    nothing, and any training would exceed a baseline this weak.
    """
    training = dataclasses.replace(learner.training, initial=None)
    state = initial_state(training, opened.reader(opened.equal_shares, seed, seed), seed)
    encoder = encoder_of(learner.training.method, state.variables, opened.canvas)
    if has_silent_branches(learner):
        encoder = dataclasses.replace(encoder, variables=branches_on(encoder.variables))
    return NetworkEncoder(encoder)


def _weights_digest(encoder: NetworkEncoder) -> str:
    """Returns a digest of architecture, image shape and weights."""
    pretrained = encoder.pretrained
    found = hashlib.sha256(json.dumps([describe(pretrained.module), list(pretrained.shape)]).encode())
    # The digest includes names, because two architectures can have equal arrays in different places.
    for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained.variables):
        found.update(jax.tree_util.keystr(path).encode() + np.asarray(jax.device_get(leaf)).tobytes())
    return found.hexdigest()[:12]
