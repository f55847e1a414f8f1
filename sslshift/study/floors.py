"""What encoders are compared with: raw pixels, and the same encoders untrained."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from sslshift.models import ENCODERS, ResNet
from sslshift.models.description import describe
from sslshift.study.judged import Judged, judge
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.training.loop import initial_state
from sslshift.transfer.encoders import branches_on
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, pixel_encoder


def judge_pixels(opened: Opened, progress: Progress) -> Judged:
    """The floor of raw pixels."""
    return _judged(opened, lambda: pixel_encoder, "pixels", "floor: raw pixels", progress)


def judge_untrained(opened: Opened, learner: Learner, seed: int, progress: Progress) -> Judged:
    """A learner's encoder before training, see `untrained_encoder`. Methods that start from the same weights share it."""
    encoder = functools.cache(lambda: untrained_encoder(opened, learner, seed))
    name = f"start-{'-'.join(learner.key)}-s{seed}{'-branches_on' if starts_silent(learner) else ''}"
    folder = Path(opened.study.out) / "floors" / name
    start = remembered(folder, start_record(learner, seed), lambda: {"weights": _digest(encoder())})
    which = learner.study.encoder if len({each.study.encoder for each in opened.learners}) > 1 else "encoder"
    return _judged(opened, encoder, f"untrained-{start['weights']}", f"floor: untrained {which}, seed {seed}", progress)


def start_record(learner: Learner, seed: int) -> dict:
    """What a learner's initial weights depend on, and with them all that its training does; and how its floor is judged."""
    return learner.record | {"seed": seed} | floor_record(learner)


def floor_record(learner: Learner) -> dict:
    """How the floor differs from the encoder that training starts from; empty where it does not."""
    return {"floor": "residual branches on"} if starts_silent(learner) else {}


def starts_silent(learner: Learner) -> bool:
    """Whether its encoder's residual branches add nothing when training starts."""
    return isinstance(ENCODERS[learner.study.encoder], ResNet)


def _judged(opened: Opened, encoder: Callable[[], Encoder], name: str, what: str, progress: Progress) -> Judged:
    folder = Path(opened.study.out) / "floors" / name
    with progress.judging(what) as work:
        how = (opened.tasks, opened.evaluations, opened.study.features)
        judged = judge(encoder, *how, folder, on_progress=work.on_progress)
    progress.say(what, judged.scores[opened.task.name])
    return judged


def untrained_encoder(opened: Opened, learner: Learner, seed: int) -> NetworkEncoder:
    """A learner's encoder as it is before its training by a seed, with residual branches switched on.

    Training starts ResNets with branches that add nothing (their last scale is 0). What is left sees one place in four of each
    stage, a floor so low that any training would seem to pass it.
    """
    state = initial_state(learner.training, opened.reader(opened.equal_shares, seed, seed), seed)
    encoder = encoder_of(learner.training.method, state.variables, opened.canvas)
    if starts_silent(learner):
        encoder = dataclasses.replace(encoder, variables=branches_on(encoder.variables))
    return NetworkEncoder(encoder)


def _digest(encoder: NetworkEncoder) -> str:
    """Of architecture, image shape and weights."""
    pretrained = encoder.pretrained
    digest = hashlib.sha256(json.dumps([describe(pretrained.module), list(pretrained.shape)]).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained.variables):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()[:12]
