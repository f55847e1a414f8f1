"""Training: the state, one pure step, its compilation over a mesh, the loop, checkpoints and metrics.

A run is a function of (method, optimiser, plan, seed). These determine the initial weights, and the batch and views of each
step, so an interrupted run continues from its checkpoint to the same bits.

    state = train(Training(method, Optimiser()), reader, seed=0, folder="results/example")

| file | what it holds |
|---|---|
| `step` | `TrainState`, the pure `train_step`, the mesh, and the compiled step |
| `sharding` | what each device holds of the state |
| `accumulation` | loss and gradient of a batch, at once or in parts |
| `optimiser` | `Optimiser`: adamw, lars and sgd with their schedule |
| `feed` | the batches of a run on the devices: read on the host, or from images in device memory |
| `loop` | `Training` and `train` |
| `checkpoints`, `digests` | checkpoints, in the only file that imports orbax, and digests that show damage of their files |
| `lockstep` | agreement of several processes on what each of them reads |
| `journal` | other files of a run: metrics, and a list of images that could not be read |
| `online` | a linear probe and signals without labels, computed during training |
| `observe` | what is observed while a run trains; it makes the objects of the next row |
| `events`, `profile`, `hang` | TensorBoard events, a trace of some steps, stacks of all threads if no step finishes |
| `guards`, `collapse` | steps that are not finite: stop, or skip and count; networks that no longer tell images apart |
| `repeated` | steps on one batch, again and again, for benchmarks |
| `programs` | the cost of a step, the number of steps in a program, and a limit on the compiled programs of a process |

Options for networks or batches that fill the memory of a device; they can be combined. The first three change the last bits of
a result, as another number of devices does: they are not part of a run's record, and a run may continue with others.

| option | what it does | saves | costs |
|---|---|---|---|
| `sharding="fsdp"` | splits the state; a step gathers its weights | state: to 1/n on n devices | communication |
| `remat` of a ResNet or ViT | computes blocks again in the backward pass | activations inside of blocks | computation |
| `accumulate=k` | takes a batch in k parts | activations: to 1/k | smaller products |
| `dtype=bfloat16` of an encoder | narrower arithmetic of encoder and heads | up to half of the activations | precision |

Use `fsdp` if parameters, target and optimiser state fill a device, and the others if activations do; `remat` works with every
method. Parts are exact only if the loss is a mean over images and no network has batch norm: mae, and dino on a ViT; for other
methods they are refused (see `Method.coupled`). The FLOPs that a study states are those of a step without these options.

In the memory analysis of XLA for CPUs, `fsdp` on 8 devices lowers the state of MAE on a ViT of 384 features and 6 blocks from
141 to 18 MiB on each device, and raises the temporary memory of a step on 64 images of 32 x 32 from 82 to 121 MiB, since CPUs
have no reduce-scatter: whole gradients exist for a moment. `remat` lowers the temporary memory of MAE on a ViT of 192 features
and 6 blocks, 64 images on one device, from 457 to 121 MiB.

Parameters, targets, optimiser state, batch statistics, gradients, losses and features are in float32 with all of them.

A run always writes `metrics.jsonl` and its sign of life, `progress.json` (`sslshift.heartbeat`). `Observation` adds the rest:
it changes no number and belongs to no record. To add another destination for scalars, write a class with `write_scalars` and
`close` and return it from `events.scalar_writer`, the only place that makes them. With `on_nonfinite="skip"` a step whose
scalars are not all finite changes nothing of the state but the step number; the run stops after more than 10 such steps in a
row, or if they are more than 10 and more than 5% of its steps.

A run may be trained by several processes (see `sslshift.cluster`), each with its own devices: the step is one program over all
devices, each process reads its part of every batch, and process 0 writes all files but the checkpoints, which all write. Losses
and parameters agree with those of one process to 1e-5 over 20 steps (`test_process_methods`). Bits differ: devices of other
processes add their sums in another order, and a long run enlarges the difference.

To add an optimiser, name it in `optimiser.OPTIMISERS` and return its transformation in `Optimiser._at`.

The tests: `test_training` (steps, resumption to the bit, schedules), `test_checkpoints` (written in the background, whole or
absent, damage is found), `test_feed` (both ways to a batch, and one or several steps in a program, give the same bits),
`test_step_cost` (FLOPs and bytes of each method's step), `test_transfer_guard` (the loop makes no implicit transfer),
`test_online` and `test_online_probe` (reports during training), `test_observe` (events, traces, hangs, signs of life),
`test_guards` and `test_collapse`, `test_from_python` (the README's example), `test_stopping`
(signals), `test_sharding`, `test_accumulation` and `test_rematerialisation` (the options above: same numbers, less memory).
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.training.loop import Training, train
    from sslshift.training.optimiser import Optimiser
    from sslshift.training.step import train_step

__all__ = ["Optimiser", "Training", "train", "train_step"]
