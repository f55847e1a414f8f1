r"""Runs an experiment as shards: submits a Slurm array, or prints the commands for the GPUs of one machine or for TPU slices.

    python -m tools.launch --on=slurm --shards=8 --slurm_options="partition=gpu; gpus=1; time=12:00:00; memory=32G" \
        -- python -m experiments.in_distribution --scale=full --out=/shared/cifar100
    python -m tools.launch --on=gpus --shards=4 -- python -m experiments.quickstart --scale=gpu
    python -m tools.launch --on=tpu --tpu=my-slice --tpu_zone=us-central2-b -- python -m experiments.quickstart --out=/shared/q

Everything after `--` is the command of the experiment, without --shard. All machines must see its --out and --logs. A job that
reaches its time limit, is preempted, or loses its machine waits again in Slurm's queue and continues its shard. `--on=local`
starts the jobs on this machine without Slurm. With several slices (`--tpu=a,b`), each runs one shard.
"""

from absl import flags

from sslshift.command import run_command
from sslshift.machines.launch import gpu_commands, slurm_jobs, tpu_commands

FLAGS = flags.FLAGS
flags.DEFINE_enum("on", "slurm", ["slurm", "local", "gpus", "tpu"], "Where the shards run; gpus and tpu print commands.")
flags.DEFINE_integer("shards", 1, "Number of shards; on GPUs that of GPUs, on TPUs that of slices.", lower_bound=1)
flags.DEFINE_string(
    "slurm_options",
    "",
    "Resources of each shard, e.g. 'partition=gpu; time=60; gpus=1; cpus=8; memory=32G; account=x'; time in minutes or as "
    "D-HH:MM:SS (default: 60 minutes); also qos, constraint, exclude, and parallel, the most shards at the same time.",
)
flags.DEFINE_string("logs", "results/launch", "Folder of the jobs' logs and files, which all machines see.")
flags.DEFINE_list("tpu", [], "Names of TPU slices, separated by ','.")
flags.DEFINE_string("tpu_zone", "", "Zone of the slices; empty: the default of gcloud.")
flags.DEFINE_string("tpu_folder", "", "Folder on the hosts in which the command is given; empty: that of the login.")
flags.DEFINE_bool("dry_run", False, "Print the script for Slurm, and submit nothing.")
flags.DEFINE_multi_string("command", [], "Arguments of the experiment's command, one each; what follows `--` is added.")


def main() -> None:
    if FLAGS.on == "gpus":
        print(gpu_commands(FLAGS.command, FLAGS.shards))
        return
    if FLAGS.on == "tpu":
        if not FLAGS.tpu:
            raise ValueError("Expected the names of TPU slices for --tpu, e.g. --tpu=my-slice.")
        print(tpu_commands(FLAGS.command, FLAGS.tpu, zone=FLAGS.tpu_zone, folder=FLAGS.tpu_folder))
        return
    jobs = slurm_jobs(FLAGS.command, FLAGS.shards, FLAGS.slurm_options, FLAGS.logs)
    if FLAGS.dry_run:
        print(jobs.script())
        return
    for number, job in enumerate(jobs.submit(local=FLAGS.on == "local"), 1):
        print(f"shard {number}/{FLAGS.shards}: job {job.job_id}, log {job.paths.stdout}")


if __name__ == "__main__":
    run_command(main, trailing="command")
