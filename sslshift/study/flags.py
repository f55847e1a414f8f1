"""From the command line to a study: every field of `Study` is a flag."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from sslshift.command import run_command
from sslshift.study import commands
from sslshift.study.build import options_given
from sslshift.study.declare import Study
from sslshift.study.learners import without_given

# --help of an experiment lists its flags, though they are defined here.
flags.disclaim_key_flags()

# A default belongs to the value it was declared with. Where the first flag is given another value by hand, what an experiment
# declares for the others is of other data, or for another optimiser, and is not used.
_COMPANIONS = {
    "sources": ("mixture",),
    "downstream": ("downstream_test", "task"),
    "optimiser": ("learning_rate", "weight_decay", "warmup"),
}

_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    tuple[str, ...]: flags.DEFINE_multi_string,
}


def run_experiment(
    defaults: Study, run: Callable[[Study], None] = commands.run, scales: Mapping[str, Study] | None = None
) -> None:
    """Runs an experiment's `main`: its study, overridden by flags. The traceback of an error is kept in OUT/error.log.

    Args:
      defaults: the study, that of `--scale=small`.
      run: what is done with it.
      scales: the same question at other scales, by what `--scale` calls them.
    """
    scales = {"small": defaults} | dict(scales or {})
    for field in dataclasses.fields(defaults):
        _DEFINE[field.type](field.name, getattr(defaults, field.name), field.metadata["help"])
    flags.DEFINE_enum(
        "scale", "small", list(scales), "Which of the experiment's studies; defaults shown here are the small one's."
    )
    flags.DEFINE_boolean(
        "dry_run", False, "Say what the study would take, in runs, samples, FLOPs, hours and money; then stop."
    )
    flags.DEFINE_boolean("report_only", False, "Report what is there, and what is missing or failed; then stop.")

    def folder() -> str:
        # A dry run writes nothing, not even the traceback of its error.
        return "" if flags.FLAGS.dry_run else flags.FLAGS.out if flags.FLAGS["out"].present else scales[flags.FLAGS.scale].out

    run_command(lambda: _do(run, scales[flags.FLAGS.scale]), folder=folder)


def _do(run: Callable[[Study], None], declared: Study) -> None:
    study, notes = _study(declared)
    for note in notes:
        print(note)
    if flags.FLAGS.dry_run:
        commands.dry_run(study)
    elif flags.FLAGS.report_only:
        commands.report_only(study)
    else:
        run(study)


def _study(declared: Study) -> tuple[Study, list[str]]:
    """Returns the declared study, overridden by flags, and notes on defaults that were not used or that belong to other data.

    Raises:
      ValueError: a test split was given without the images that it belongs to.
    """
    given = _given()
    if given.get("downstream_test") and "downstream" not in given:
        raise ValueError(
            f"--downstream_test={given['downstream_test']} was given without --downstream: a test split belongs to the images "
            f"that encoders learn the task from. Give both; the default is --downstream={declared.downstream!r}."
        )
    unused = _unused(declared, given)
    defaults = {field.name: field.default for field in dataclasses.fields(Study)}
    study = dataclasses.replace(declared, **{name: defaults[name] for name in unused} | given)
    if "for_method" not in given:
        # What was given by hand wins over what the experiment says of one method.
        own = {*given, *unused, *(options_given(study) if "method_options" in given else ())}
        study = dataclasses.replace(study, for_method=without_given(study.for_method, own))
    changed = {name: of for name, of in unused.items() if getattr(declared, name) != defaults[name]}
    return study, [*_unused_notes(declared, changed), *_kept_notes(study, given)]


def _given() -> dict[str, Any]:
    """Returns the fields of a study that were given by hand."""
    given = {field.name: flags.FLAGS[field.name] for field in dataclasses.fields(Study) if flags.FLAGS[field.name].present}
    return {name: tuple(flag.value) if isinstance(flag.value, list) else flag.value for name, flag in given.items()}


def _unused(declared: Study, given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields whose declared values belong to another field that was changed by hand, each with that field."""
    changed = [name for name in _COMPANIONS if name in given and given[name] != getattr(declared, name)]
    return {companion: name for name in changed for companion in _COMPANIONS[name] if companion not in given}


def _unused_notes(declared: Study, unused: Mapping[str, str]) -> list[str]:
    notes = []
    for name, of in unused.items():
        values = getattr(declared, name)
        text = "; ".join(values) if isinstance(values, tuple) else str(values)
        notes.append(
            f"--{name}: this experiment's default ({text}) belongs to its own --{of} and is not used; give --{name} to set it."
        )
    return notes


def _kept_notes(study: Study, given: Mapping[str, Any]) -> list[str]:
    """Returns notes where only one of sources and downstream images was given: the other is still the experiment's own."""
    notes = []
    if "downstream" in given and "sources" not in given:
        notes.append(f"--sources was not given: encoders are pretrained on this experiment's own sources, {study.sources}")
    if "sources" in given and "downstream" not in given:
        notes.append(f"--downstream was not given: encoders are evaluated on this experiment's own task, {study.downstream}")
    return notes
