"""Studies on several machines: how they are started, and their state.

| file | what it holds |
|---|---|
| `launch` | the shards of a study as a Slurm array, as processes of one machine, and on TPU slices |
| `status` | the state of every run of a study, from its files alone, on any machine |

A study runs on several machines in two ways. With `--shard=i/n` each machine trains other runs of the grid, in one folder that
all of them see: see `sslshift.shards` for who computes what, and `sslshift.storage` for the file systems that have the locks it
needs. With `--distributed` several hosts train each run together. Both can be combined: a shard for each TPU slice.

    python -m tools.launch --on=slurm --shards=8 -- python -m experiments.in_distribution --scale=full --out=/shared/x
    python -m tools.status /shared/x
    python -m experiments.in_distribution --scale=full --out=/shared/x --report_only

`launch` passes commands on as lists of arguments, and quotes those that a shell reads. To add a scheduler that submitit knows,
set its executor in `SlurmJobs.submit`.

The tests: `test_launch`, `test_status`; `test_shards` has several processes in one folder.
"""
