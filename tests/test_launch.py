"""Launching shards: nothing in a name, a path or a setting is run by a shell, and jobs run, stop and continue."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sslshift.machines import launch
from sslshift.machines.launch import ShardJob, gpu_commands, job_name, shard_commands, slurm_jobs, slurm_options, tpu_commands
from sslshift.reporting.ledger import read_ledger

# Each would make a file `pwned` if a shell read it.
HOSTILE = [
    "a b",
    'it\'s "quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "&& touch pwned",
    "one\ntouch pwned\n",
    "'; touch pwned; '",
    "\\'; touch pwned #",
    "*",
    "",
    "--out=$HOME/~ ! é",
]
# Writes its arguments and its GPU to a file of its own.
RECORD = "import json, os, sys; json.dump([sys.argv[2:], os.environ.get('CUDA_VISIBLE_DEVICES')], open(sys.argv[1], 'a'))"


def record(path):
    return [sys.executable, "-c", RECORD, str(path), *HOSTILE]


def fake(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def sh(text, folder, *, programs=None):
    environment = dict(os.environ)
    if programs:
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["sh", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not (folder / "pwned").exists()
    return done.stdout


@pytest.mark.parametrize("flag", ["--shard=1/2", "-shard=1/2", "--shard", "--report_only", "--dry_run=true", "--shard=\n"])
def test_a_command_that_cannot_be_a_shard_is_refused(flag):
    with pytest.raises(
        ValueError, match=r"Expected a command that trains all runs, got one with '--?(shard|report_only|dry_run)"
    ):
        shard_commands(["python", flag], 2)


def test_no_command_and_no_shards_are_refused():
    with pytest.raises(ValueError, match="Expected the command of an experiment after '--', e"):
        shard_commands([], 2)
    with pytest.raises(ValueError, match="Expected --shards of at least 1, got 0"):
        shard_commands(["python"], 0)
    assert shard_commands(["x", "--shards=3"], 1) == [("x", "--shards=3", "--shard=1/1")]


def test_commands_for_gpus_reach_the_shards_as_they_were_given(tmp_path):
    sh(gpu_commands([*record(tmp_path / "said"), "end"], 1), tmp_path)
    assert json.loads((tmp_path / "said").read_text()) == [[*HOSTILE, "end", "--shard=1/1"], "0"]
    lines = gpu_commands(["python", "-m", "experiments.quickstart"], 3)
    assert lines.splitlines()[2] == "CUDA_VISIBLE_DEVICES=2 python -m experiments.quickstart --shard=3/3 &"
    assert lines.splitlines()[3] == "wait"


@pytest.mark.parametrize("folder", HOSTILE)
def test_commands_for_tpus_pass_two_shells_unchanged(tmp_path, folder):
    place = tmp_path / "hosts"
    if folder:
        (place / folder).mkdir(parents=True)
    # A stand-in for gcloud writes down what the local shell gives it; the remote shell is another `sh`.
    fake(tmp_path / "bin", "gcloud", f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('gcloud', 'w'))\n")
    line = tpu_commands(record(tmp_path / "said"), ["my-slice"], zone="us-central2-b", folder=folder)
    sh(line, tmp_path, programs=tmp_path / "bin")
    *about, worker, command = json.loads((tmp_path / "gcloud").read_text())
    assert about == ["compute", "tpus", "tpu-vm", "ssh", "my-slice", "--zone=us-central2-b"]
    assert worker == "--worker=all"
    place.mkdir(exist_ok=True)
    sh(command.removeprefix("--command="), place)
    assert json.loads((tmp_path / "said").read_text())[0] == [*HOSTILE, "--distributed"]
    assert not list(tmp_path.rglob("pwned"))


def test_several_slices_have_a_shard_each():
    lines = tpu_commands(["python", "--distributed"], ["a", "b"]).splitlines()
    assert lines[1] == ("gcloud compute tpus tpu-vm ssh b --worker=all '--command=python --distributed --shard=2/2'")
    assert "zone" not in lines[0]


@pytest.mark.parametrize("name", ["-x", "--flag", "A", "a b", "a;b", "$(a)", "a\n", "a-", ""])
def test_names_that_no_slice_has_are_refused(name):
    with pytest.raises(ValueError, match="Expected a name of lower-case letters, digits and '-' for --tpu, got"):
        tpu_commands(["python"], [name])
    if name:
        with pytest.raises(ValueError, match="for --tpu_zone, got"):
            tpu_commands(["python"], ["a"], zone=name)


def test_names_of_jobs_are_of_letters_and_digits():
    assert job_name(["python", "-m", "experiments.quickstart"]) == "experiments.quickstart"
    assert job_name(["python", "-m"]) == "python"
    assert job_name(["/usr/bin/env x"]) == "env_x"
    for each in HOSTILE:
        name = job_name(["python", "-m", each])
        assert name
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert len(job_name(["a" * 999])) == 64


@pytest.mark.parametrize("name", [each for each in HOSTILE if each and "\n" not in each])
def test_the_script_for_slurm_runs_nothing_of_a_name_or_path(tmp_path, name):
    logs = tmp_path / name.replace("/", "_")
    jobs = slurm_jobs([*record(tmp_path / "said"), "-m", name], 3, "partition=gpu; gpus=2; memory=32G; parallel=2", str(logs))
    script = jobs.script()
    options = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH --"):
            (text,) = shlex.split(line.removeprefix("#SBATCH "))
            key, _, options[key] = text.partition("=")
    assert options["--array"] == "0-2%2"
    assert options["--partition"] == "gpu"
    assert options["--gpus-per-node"] == "2"
    assert options["--mem"] == "32G"
    assert options["--time"] == "60"
    assert options["--signal"] == "USR2@120"
    assert "--requeue" in options
    assert options["--output"] == f"{logs}/%A_%a/%A_%a_0_log.out"
    # The command is not part of the script.
    assert RECORD not in script
    fake(tmp_path / "bin", "srun", f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('srun', 'w'))\n")
    (tmp_path / "script").write_text(script)
    sh("bash script", tmp_path, programs=tmp_path / "bin")
    arguments = json.loads((tmp_path / "srun").read_text())
    assert arguments[1:3] == ["--output", f"{logs}/%A_%a/%A_%a_%t_log.out"]
    assert arguments[-2:] == ["submitit.core._submit", f"{logs}/%j"]


@pytest.mark.parametrize("logs", ["", "a\nb", "a\x00b", "a%jb", "\x7f"])
def test_folders_that_slurm_would_change_are_refused(logs):
    with pytest.raises(ValueError, match="Expected a folder without '%' and control characters for --logs, got"):
        slurm_jobs(["python"], 1, "", logs)


def test_an_array_is_submitted_once_with_a_file_for_each_shard(tmp_path, monkeypatch):
    for name in ("sbatch", "srun"):
        fake(tmp_path / "bin", name, '#!/bin/sh\necho "$@" >> called\necho Submitted batch job 17\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    jobs = slurm_jobs(["python", *HOSTILE], 2, "time=30", "logs").submit()
    assert [job.job_id for job in jobs] == ["17_0", "17_1"]
    assert len((tmp_path / "called").read_text().splitlines()) == 1
    assert [job.submission().function for job in jobs] == [
        ShardJob(("python", *HOSTILE, f"--shard={number}/2")) for number in (1, 2)
    ]
    assert not (tmp_path / "pwned").exists()


def test_a_machine_without_slurm_or_submitit_says_so(monkeypatch, tmp_path):
    jobs = slurm_jobs(["python"], 1, "", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"This machine has no Slurm .*; --dry_run shows the script"):
        jobs.submit()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"Jobs need submitit, which is not installed: pip install 'sslshift\[slurm\]'"):
        jobs.submit()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nodes=2",
            "gpus, cpus, memory, parallel, got 'nodes'",
        ),
        ("time=1:30", "expected minutes, HH:MM:SS or D-HH:MM:SS for time, got '1:30'"),
        ("time=2", "expected a time of at least 3 minutes, got '2'"),
        ("gpus=0", "Expected whole numbers above 0 separated by ',' for --slurm_options gpus, got '0'"),
        ("cpus=x", "for --slurm_options cpus, got 'x'"),
        ("memory=32", "expected a number with K, M, G or T for memory, e.g. 32G, got '32'"),
        ("partition=a b", "expected letters, digits and punctuation for partition, got 'a b'"),
        ("account=$(touch pwned)", "expected letters, digits and punctuation for account"),
        ("partition=a\ntouch pwned", "expected letters, digits and punctuation for partition"),
        ("time", "Expected --slurm_options as 'name=value; name=value', got 'time'"),
    ],
)
def test_wrong_resources_are_refused(text, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        slurm_options(text)
    assert message in str(caught.value)


def test_times_are_those_of_slurm():
    times = {"90": 90, "01:30:00": 90, "1-00:00:00": 1440, "2-03:04:05": 2 * 1440 + 3 * 60 + 5}
    assert {text: slurm_options(f"time={text}")["time"] for text in times} == times


# Runs until it is asked to stop, says so, and ends at once when it is started again.
PATIENT = """
    import os, signal, sys, time
    starts = sys.argv[1]
    with open(starts, "a") as file:
        file.write("started\\n")
    if len(open(starts).readlines()) == 1:
        def stop(number, frame):
            open(starts, "a").write(signal.Signals(number).name + "\\n")
            sys.exit(0)
        signal.signal(signal.SIGUSR2, stop)
        time.sleep(60)
        sys.exit(3)
"""


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_at_its_time_limit_lets_the_shard_save_and_continues_it(tmp_path, monkeypatch):
    # Half a minute, of which the grace is all but three seconds.
    monkeypatch.setattr(launch, "_GRACE", 27)
    command = [sys.executable, "-c", textwrap.dedent(PATIENT), str(tmp_path / "starts")]
    jobs = slurm_jobs(command, 1, "", str(tmp_path / "logs"))
    jobs.options["time"] = 0.5
    (job,) = jobs.submit(local=True)
    try:
        job.result()
    finally:
        job.cancel()
    assert (tmp_path / "starts").read_text().split() == ["started", "SIGUSR2", "started"]


@pytest.mark.parametrize(
    ("name", "message"), [("SIGTERM", "was stopped; the same command continues it"), ("", "ended with code 3")]
)
def test_a_shard_that_did_not_end_is_no_success(tmp_path, name, message):
    code = textwrap.dedent(PATIENT)
    command = (sys.executable, "-c", code if name else code.replace("time.sleep(60)", ""))
    run = f"from sslshift.machines.launch import ShardJob; ShardJob({(*command, str(tmp_path / 'starts'))!r})()"
    job = subprocess.Popen([sys.executable, "-c", run], stderr=subprocess.PIPE, text=True)
    try:
        if name:
            wait_for(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text())
            # The shard's own handler is set by then.
            time.sleep(1)
            job.terminate()
        _, said = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 1
    assert f"{message}." in said.splitlines()[-1]


def test_a_job_of_slurm_is_requeued_before_its_end_and_continues(tmp_path, monkeypatch):
    """With stand-ins for sbatch, which keeps the script, for srun, which runs its command, and for scontrol."""
    fake(tmp_path / "bin", "sbatch", '#!/bin/sh\ncp "$1" script\necho Submitted batch job 17\n')
    srun = "import os, sys\nopen('pid', 'w').write(str(os.getpid()))\nwords = sys.argv[sys.argv.index(sys.executable):]"
    fake(tmp_path / "bin", "srun", f"#!{sys.executable}\n{srun}\nos.execv(words[0], words)\n")
    fake(tmp_path / "bin", "scontrol", "#!/bin/sh\necho $@ > requeued\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(PATIENT), "starts"]
    jobs = slurm_jobs(command, 2, "", "logs of it's jobs").submit()
    numbers = {"JOB_ID": 18, "ARRAY_JOB_ID": 17, "ARRAY_TASK_ID": 0, "NTASKS": 1, "JOB_NUM_NODES": 1}
    environment = os.environ | {
        f"SLURM_{name}": str(each) for name, each in (numbers | dict.fromkeys(["NODEID", "PROCID"], 0)).items()
    }
    job = subprocess.Popen(["bash", "script"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text())
        time.sleep(1)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)
        job.communicate(timeout=60)
    finally:
        job.kill()
    assert (tmp_path / "requeued").read_text() == "requeue 17_0\n"
    assert not jobs[0].paths.result_pickle.exists()
    subprocess.run(["bash", "script"], env=environment, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "starts").read_text().split() == ["started", "SIGUSR2", "started"]
    assert jobs[0].paths.result_pickle.exists()


@pytest.mark.slow
def test_a_study_runs_as_jobs(tmp_path):
    out = tmp_path / "out $(touch pwned)"
    command = (
        f"--on=local --shards=2 --logs={shlex.quote(str(tmp_path / 'logs'))} --slurm_options='time=30' -- {sys.executable} "
        "-m experiments.quickstart --sources=bundled:mnist@40,60 --downstream=bundled:mnist "
        "--downstream_test=bundled:mnist/test --evaluations=linear --labelled=60 --untrained_seeds=2 --budget=64 "
        f"--batch_size=32 --seeds=2 --head=16,8 --shift_images=0 --primary=diversity {shlex.quote(f'--out={out}')}"
    )
    launched = [sys.executable, "-m", "tools.launch", *shlex.split(command)]
    done = subprocess.run(launched, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    logs = [line.rpartition("log ")[2] for line in done.stdout.splitlines()]
    assert len(logs) == 2
    try:
        wait_for(lambda: len(list((tmp_path / "logs").glob("*/*_result.pkl"))) == 2, 900)
    finally:
        for line in done.stdout.splitlines():
            # Jobs that are done have no process.
            subprocess.run(["kill", line.partition("job ")[2].partition(",")[0]], stderr=subprocess.DEVNULL)
    rows = [row for row in read_ledger(out) if row["kind"] == "run"]
    assert sorted((row["unique"], row["seed"]) for row in rows) == [(40, 0), (40, 1), (60, 0), (60, 1)]
    assert (out / "report.html").exists()
    assert not list(tmp_path.rglob("pwned"))
