"""From the command line to a study: every field of `Study` is a flag."""

import dataclasses
from collections.abc import Callable

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


def run_experiment(defaults: Study, run: Callable[[Study], None]) -> None:
    """Runs an experiment's `main`: its study, overridden by flags. The traceback of an error is kept in OUT/error.log."""
    for field in dataclasses.fields(defaults):
        _DEFINE[field.type](field.name, getattr(defaults, field.name), field.metadata["help"])
    flags.DEFINE_boolean(
        "dry_run", False, "Say what the study would take, in runs, samples, FLOPs, hours and money; then stop."
    )
    flags.DEFINE_boolean("report_only", False, "Report what is there, and what is missing or failed; then stop.")
    # A dry run writes nothing, not even the traceback of its error.
    run_command(lambda: _do(run), folder=lambda: "" if flags.FLAGS.dry_run else flags.FLAGS.out)


def _do(run: Callable[[Study], None]) -> None:
    study = _study()
    if flags.FLAGS.dry_run:
        commands.dry_run(study)
    elif flags.FLAGS.report_only:
        commands.report_only(study)
    else:
        run(study)


def _study() -> Study:
    """The study as the flags say."""
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Study)}
    study = Study(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    given = {name for name in values if flags.FLAGS[name].present}
    if "for_method" in given:
        return study
    # What was given by hand wins over what the experiment says of one method.
    given |= set(options_given(study)) if "method_options" in given else set()
    return dataclasses.replace(study, for_method=without_given(study.for_method, given))
