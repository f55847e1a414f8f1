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
        return "" if flags.FLAGS.dry_run else _values(scales[flags.FLAGS.scale])["out"]

    run_command(lambda: _do(run, scales[flags.FLAGS.scale]), folder=folder)


def _do(run: Callable[[Study], None], declared: Study) -> None:
    study = _study(declared)
    if flags.FLAGS.dry_run:
        commands.dry_run(study)
    elif flags.FLAGS.report_only:
        commands.report_only(study)
    else:
        run(study)


def _values(declared: Study) -> dict[str, Any]:
    """Fields of a study, those that were given by hand as the flags say."""
    values = {}
    for field in dataclasses.fields(Study):
        flag = flags.FLAGS[field.name]
        value = flag.value if flag.present else getattr(declared, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return values


def _study(declared: Study) -> Study:
    """The declared study, overridden by flags."""
    study = Study(**_values(declared))
    given = {field.name for field in dataclasses.fields(Study) if flags.FLAGS[field.name].present}
    if "for_method" in given:
        return study
    # What was given by hand wins over what the experiment says of one method.
    given |= set(options_given(study)) if "method_options" in given else set()
    return dataclasses.replace(study, for_method=without_given(study.for_method, given))
