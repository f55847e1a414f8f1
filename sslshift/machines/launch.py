"""Commands that run a study on several machines or devices: a Slurm array, processes of one machine, and TPU slices.

A command is a list of arguments from the first to the last line of this file. A shell sees it only as text that `shlex.join`
has quoted, so that no name, path or setting can run anything. Slurm's script has no part of the command: submitit keeps the
arguments in a file beside its log, and starts the process without a shell. That file is a pickle, as submitit's are, which a
job loads: the folder of logs must be one that only the user can write to.
"""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.command import parsed, settings

# Flags of an experiment that a shard must not have: the first is added here, the others train nothing.
_NOT_GIVEN = ("shard", "report_only", "dry_run")
_LONGEST_NAME = 64
# Requeues of one shard after its time limit; a study that needs more should have more shards.
_MOST_TIMEOUTS = 100
# Seconds before the end of a job at which Slurm asks it to stop, and within which a shard saves its step.
_GRACE = 120
# Seconds between two looks at a shard that runs.
_LOOK = 0.2
_DEFAULT_MINUTES = 60
_SLURM_TEXTS = ("partition", "account", "qos", "constraint", "exclude")
_SLURM_OPTIONS = (*_SLURM_TEXTS, "time", "gpus", "cpus", "memory", "parallel")


def shard_commands(command: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Returns the command of each shard of an experiment.

    Example:
      >>> shard_commands(["python", "-m", "experiments.quickstart"], 2)[1]
      ('python', '-m', 'experiments.quickstart', '--shard=2/2')

    Args:
      command: command of the experiment as a list of arguments.
      count: number of shards.

    Raises:
      ValueError: there is no command, or it has a flag that a shard must not have.
    """
    if not command:
        raise ValueError("Expected the command of an experiment after '--', e.g. -- python -m experiments.quickstart.")
    if count < 1:
        raise ValueError(f"Expected --shards of at least 1, got {count}.")
    for name in _NOT_GIVEN:
        given = next((each for each in command if re.fullmatch(rf"--?{name}(=.*)?", each, re.DOTALL)), None)
        if given:
            raise ValueError(
                f"Expected a command that trains all runs, got one with {given!r}: --shard is added for each shard."
            )
    return [(*command, f"--shard={number}/{count}") for number in range(1, count + 1)]


def job_name(command: Sequence[str]) -> str:
    """Returns a name of letters, digits, '.', '_' and '-' for the jobs of a command: the module that it runs.

    Example:
      >>> job_name(["python", "-m", "experiments.quickstart", "--out=a b"])
      'experiments.quickstart'
    """
    name = command[command.index("-m") + 1] if "-m" in command[:-1] else os.path.basename(command[0])
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("-_.")[:_LONGEST_NAME] or "sslshift"


def gpu_commands(command: Sequence[str], count: int) -> str:
    """Returns shell lines that run one shard on each of the GPUs 0 to count - 1 of one machine, all at the same time."""
    lines = [f"CUDA_VISIBLE_DEVICES={gpu} {shlex.join(each)} &" for gpu, each in enumerate(shard_commands(command, count))]
    return "\n".join([*lines, "wait"])


def tpu_commands(command: Sequence[str], slices: Sequence[str], *, zone: str = "", folder: str = "") -> str:
    """Returns a shell line for each TPU slice, which runs the study, or one shard of it, on all hosts of the slice.

    Args:
      command: command of the experiment.
      slices: names of the TPU slices; the study has a shard for each if there are several.
      zone: zone of the slices; empty: the default of gcloud.
      folder: folder on the hosts in which the command is given; empty: that of the login.

    Raises:
      ValueError: a name is none that Google Cloud gives, or the command has a flag that a shard must not have.
    """
    for flag, name in [("--tpu", each) for each in slices] + ([("--tpu_zone", zone)] if zone else []):
        # A name that begins with a dash would be a flag of gcloud.
        if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
            raise ValueError(f"Expected a name of lower-case letters, digits and '-' for {flag}, got {name!r}.")
    commands = shard_commands(command, len(slices)) if len(slices) > 1 else [shard_commands(command, 1)[0][:-1]]
    lines = []
    for name, each in zip(slices, commands, strict=True):
        distributed = each if "--distributed" in each else (*each, "--distributed")
        remote = (f"cd -- {shlex.quote(folder)} && " if folder else "") + shlex.join(distributed)
        # Two shells read the command: the local one, and that of the hosts.
        local = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, *([f"--zone={zone}"] if zone else [])]
        lines.append(shlex.join([*local, "--worker=all", f"--command={remote}"]))
    return "\n".join(lines)


@dataclasses.dataclass
class ShardJob:
    """The work of a job: one shard in a process of its own. submitit calls it, and calls `checkpoint` before the time is over.

    Args:
      command: command of the shard.
    """

    command: tuple[str, ...]

    def __call__(self) -> None:
        """Runs the shard to its end.

        Raises:
          RuntimeError: the shard failed, or was stopped before its end.
        """
        self._stopped = False
        self._process = subprocess.Popen(self.command)
        # Slurm sends it to a job that it preempts, and then requeues the job itself.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        code = self._wait()
        if code or self._stopped:
            why = "was stopped; the same command continues it" if self._stopped else f"ended with code {code}"
            raise RuntimeError(f"{shlex.join(self.command)} {why}.")

    def checkpoint(self) -> Any:
        """Lets the shard save its step, and returns the job that continues it after a requeue."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        self._wait(_GRACE - 30)
        # Processes cannot be kept in a file.
        return DelayedSubmission(ShardJob(self.command))

    def _stop(self) -> None:
        self._stopped = True
        # Slurm may have sent the signal to this process as well; two at the same time count as one.
        self._process.send_signal(signal.SIGUSR2)

    def _wait(self, most: float = float("inf")) -> int | None:
        # Not `Popen.wait`: a signal interrupts it, and `checkpoint` could not wait again.
        end = time.monotonic() + most
        while (code := self._process.poll()) is None and time.monotonic() < end:
            time.sleep(_LOOK)
        return code


class SlurmJobs(NamedTuple):
    """Shards as jobs of submitit.

    Attributes:
      name: name of the jobs.
      commands: commands of the shards.
      options: parameters of `submitit.SlurmExecutor`.
      logs: folder of logs, which all machines see.
    """

    name: str
    commands: list[tuple[str, ...]]
    options: dict[str, Any]
    logs: Path

    def script(self) -> str:
        """Returns the script that `submit` hands to Slurm."""
        submitit = _submitit()

        class ShownExecutor(submitit.SlurmExecutor):
            # A script can be shown on a machine without Slurm.
            @classmethod
            def affinity(cls) -> int:
                return 1

        executor = self._set(ShownExecutor(self.logs / "%j"))
        executor.parameters["map_count"] = len(self.commands)
        return executor._make_submission_file_text(executor._submitit_command_str, "shown")

    def submit(self, *, local: bool = False) -> list[Any]:
        """Submits all shards as one Slurm array, or starts them on this machine, and returns the jobs of submitit.

        Raises:
          RuntimeError: this machine has no Slurm, or Slurm refused the array.
        """
        submitit = _submitit()
        if local:
            executor = submitit.LocalExecutor(self.logs / "%j", max_num_timeout=_MOST_TIMEOUTS)
            executor.update_parameters(timeout_min=self.options["time"], signal_delay_s=_GRACE)
        else:
            if not (shutil.which("sbatch") and shutil.which("srun")):
                raise RuntimeError("This machine has no Slurm (no sbatch and srun); --dry_run shows the script of the array.")
            executor = self._set(submitit.SlurmExecutor(self.logs / "%j", max_num_timeout=_MOST_TIMEOUTS))
        return executor.submit_array([ShardJob(each) for each in self.commands])

    def _set(self, executor: Any) -> Any:
        # A job whose machine fails, or that is preempted, waits again and continues its shard.
        more = {"additional_parameters": {"requeue": True}, "signal_delay_s": _GRACE, "stderr_to_stdout": True}
        executor.update_parameters(job_name=self.name, **self.options, **more)
        return executor


def slurm_jobs(command: Sequence[str], count: int, options: str, logs: str) -> SlurmJobs:
    """Returns the shards of a command as jobs.

    Args:
      command: command of the experiment.
      count: number of shards.
      options: resources of each shard, see `slurm_options`.
      logs: folder of logs.

    Raises:
      ValueError: an option, the folder or the command is wrong.
    """
    # A line break would end the line of Slurm's script, and Slurm replaces what follows a %.
    if not logs or re.search(r"[\x00-\x1f\x7f%]", logs):
        raise ValueError(f"Expected a folder without '%' and control characters for --logs, got {logs!r}.")
    return SlurmJobs(job_name(command or [""]), shard_commands(command, count), slurm_options(options), Path(logs).absolute())


def slurm_options(text: str) -> dict[str, Any]:
    """Returns the resources of a shard as parameters of `submitit.SlurmExecutor`.

    Example:
      >>> slurm_options("partition=gpu; time=1-12:00:00; gpus=1; memory=32G")
      {'partition': 'gpu', 'time': 2160, 'gpus_per_node': 1, 'mem': '32G'}

    Args:
      text: settings as in `sslshift.command.settings`: partition, account, qos, constraint, exclude; time in minutes, as
        HH:MM:SS or as D-HH:MM:SS; gpus, cpus and memory (32G) of each shard; parallel: most shards that run at the same time.

    Raises:
      ValueError: a name or value is wrong.
    """
    flag = "--slurm_options"
    given = settings(text, flag=flag, names=_SLURM_OPTIONS)
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z0-9_.,:&|*\[\]()-]+", value):
            raise ValueError(f"{flag}: expected letters, digits and punctuation for {name}, got {value!r}.")
    found: dict[str, Any] = {name: given[name] for name in _SLURM_TEXTS if name in given}
    found["time"] = _minutes(flag, given.get("time", str(_DEFAULT_MINUTES)))
    for name, parameter in {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "parallel": "array_parallelism"}.items():
        if name in given:
            (found[parameter],) = parsed(f"{flag} {name}", given[name], (1,))
    if "memory" in given:
        if not re.fullmatch(r"[0-9]+[KMGT]", given["memory"]):
            raise ValueError(f"{flag}: expected a number with K, M, G or T for memory, e.g. 32G, got {given['memory']!r}.")
        found["mem"] = given["memory"]
    return found


def _minutes(flag: str, text: str) -> int:
    match = re.fullmatch(r"(?:(?:([0-9]+)-)?([0-9]{1,2}):([0-9]{2}):([0-9]{2}))|([0-9]+)", text)
    if not match:
        raise ValueError(f"{flag}: expected minutes, HH:MM:SS or D-HH:MM:SS for time, got {text!r}.")
    days, hours, minutes, seconds, alone = (int(each or 0) for each in match.groups())
    found = alone or days * 1440 + hours * 60 + minutes + (seconds > 0)
    # A shard starts in a minute or two, and saves its step before the end.
    least = _GRACE // 60 + 1
    if found < least:
        raise ValueError(f"{flag}: expected a time of at least {least} minutes, got {text!r}.")
    return found


def _submitit() -> Any:
    """Returns the module submitit.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise ValueError("Jobs need submitit, which is not installed: pip install 'sslshift[slurm]'") from error
    return submitit
