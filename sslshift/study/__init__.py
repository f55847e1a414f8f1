"""Studies: grids of runs at one budget, declared as data, run by one runner, analysed and reported.

An experiment declares a `Study` and hands it to `run_experiment`, which makes a command of it. From Python, `run(Study(...))`
does the same. Data moves through the files of this package in one direction:

| file | content |
|---|---|
| `declare` | `Study`: text and numbers, as flags give them |
| `design` | `parse_study`: the declaration parsed once, into typed objects |
| `learners`, `candidates` | methods on encoders, and ways to spend the budget, opened and checked |
| `opened` | `open_study`: everything that a design names, its tasks among it, and the grid of runs |
| `leaks`, `shifts`, `evaluate` | leaked test images, shift indices, and scores of runs and baselines, kept in folders |
| `runner` | `run_study` and `read_results`; `results` has their return types, `ledger` writes the table `results.csv` |
| `analysis`, `learner_analysis` | `Analysis(results)`: gains, comparisons and trends with intervals |
| `claims` | everything that a report tests, corrected together, with verdicts and their words |
| `report/` | sentences, tables, figures and the page |
| `cli` | flags, `run`, `--dry_run` and `--report_only`; `cost` and `progress` print for it; `cost` also keeps `timing.json` |
| `calibration` | the study of the shift index itself |

`runner.train_run` corrects N for broken images: `unique_read` is N without the images in the run's `broken.csv`.

To add an experiment, write one module in `experiments/`: a docstring, a `Study`, and a call of `run_experiment`. To add a
number to the report, compute it in `analysis` and show it in `report/`.

To add a flag, add a field to `Study`, with its range in `__post_init__`, and a field to `Design`, which `design.parse_study`
fills; a flag that --for_method may set goes into `LearnerSettings` and `OWN_FLAGS` of `declare` instead. A flag that changes
training must be part of `Learner.record` or `results.run_record`; otherwise a run with another value would be taken for the
same run.

With `--init`, `learners` opens an encoder and `sslshift.models.initial.fitted` brings it to the images of the study. It enters
`Training.initial`, the method takes its normalisation and holds it still at first, and the baseline of gains is this encoder
as it is (`evaluate.evaluate_initial`, `Analysis.baseline`). Runs depend on the digest of its content.

On a GPU or TPU, all training images are placed in its memory before the first run if they fit (`--device_memory`): they are
read once, and a step needs only row numbers. Short steps share a program (`--steps_per_dispatch`). Neither changes the stream
of samples. On a CPU images stay on the host, which keeps small sources in memory anyway, and each program has one step.

After `kill -9` during a checkpoint, a run's folder holds `record.json`, `metrics.jsonl`, the checkpoints that were complete,
and an incomplete one under a temporary name. It has no `result.json` and no encoder, and the results table has no row for it.
The same command reads finished runs, continues this one from its last complete checkpoint, cuts `metrics.jsonl` back to that
step, and repeats at most `--checkpoint_every` steps, which give the same numbers. Without a complete checkpoint the run
starts again. SIGTERM, SIGUSR1 and SIGUSR2 (see `sslshift.stopping`) let the run in training save its step first: `cli` makes
one `Stop`, `Progress` carries it, and the training loop asks it once per chunk of steps. If files of the newest checkpoint are
missing or changed (`sslshift.training.digests`), the run says so and continues from the one before; if both are damaged, it
stops, and so it does before its first step if the disk has no space for its checkpoints.

A study of several processes (`--distributed`, see `sslshift.cluster`) runs the same code in all of them: each decision that
depends on a file is taken by process 0 and sent to the others (`Store`, `Checkpoints`), features are computed in parts and
joined, and process 0 alone writes (`sslshift.storage`) and reports. All processes compute what follows from features.

Shards of a study (`--shard=i/n`, see `sslshift.shards`) work in one folder at the same time. Each result is computed by the
process that holds its lock in `.locks/`, and the others wait for it or do other work. The table, `plan.json`, `timing.json`,
`runs.json` and `leaks.csv` are changed under one short lock, after they were read again; rows keep the order in which one
process writes them. Each shard reports what all have finished; the one that finishes the last run reports all of it. Tracebacks
are in `shards/i-of-n/error.log`.

The tests: `test_study` (commands in processes of their own), `test_runner` (resumption, failures, the results table),
`test_overlap` (evaluation beside training), `test_shards` (several processes in one folder), `test_stopping` (signals to stop),
`test_analysis`, `test_report*`, `test_study_shifts`, `test_flags`, `test_calibration`, `test_continued_study` (`--init`).
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.study.cli import run, run_experiment
    from sslshift.study.declare import Study

__all__ = ["Study", "run", "run_experiment"]
