"""What encoders are compared with: raw pixels, and the same encoders untrained."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from sslshift.models.description import describe
from sslshift.study.judged import Judged, judge
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.training.loop import initial_state
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, pixel_encoder


def judge_pixels(opened: Opened, progress: Progress) -> Judged:
    """The floor of raw pixels."""
    return _judged(opened, lambda: pixel_encoder, "pixels", "floor: raw pixels", progress)


def judge_untrained(opened: Opened, learner: Learner, seed: int, progress: Progress) -> Judged:
    """A learner's encoder before training. Methods that start from the same weights of the same encoder share the judgement."""
    encoder = functools.cache(lambda: untrained_encoder(opened, learner, seed))
    folder = Path(opened.study.out) / "floors" / f"start-{'-'.join(learner.key)}-s{seed}"
    start = remembered(folder, start_record(learner, seed), lambda: {"weights": _digest(encoder())})
    which = learner.study.encoder if len({each.study.encoder for each in opened.learners}) > 1 else "encoder"
    return _judged(opened, encoder, f"untrained-{start['weights']}", f"floor: untrained {which}, seed {seed}", progress)


def start_record(learner: Learner, seed: int) -> dict:
    """What a learner's initial weights depend on, and with them all that its training does."""
    return learner.record | {"seed": seed}


def _judged(opened: Opened, encoder: Callable[[], Encoder], name: str, what: str, progress: Progress) -> Judged:
    folder = Path(opened.study.out) / "floors" / name
    with progress.judging(what) as work:
        how = (opened.tasks, opened.evaluations, opened.study.features)
        judged = judge(encoder, *how, folder, on_progress=work.on_progress)
    progress.say(what, judged.scores[opened.task.name])
    return judged


def untrained_encoder(opened: Opened, learner: Learner, seed: int) -> NetworkEncoder:
    """A learner's encoder as it is before its training by a seed."""
    state = initial_state(learner.training, opened.reader(opened.equal_shares, seed, seed), seed)
    return NetworkEncoder(encoder_of(learner.training.method, state.variables, opened.canvas))


def _digest(encoder: NetworkEncoder) -> str:
    """Of architecture, image shape and weights."""
    pretrained = encoder.pretrained
    digest = hashlib.sha256(json.dumps([describe(pretrained.module), list(pretrained.shape)]).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained.variables):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()[:12]
