"""Declaration of a study: sources, numbers of unique samples, budget, learners and downstream tasks, as text and numbers.

Every field is a command-line flag of every experiment. `sslshift.study.design` parses the text; `parse_own` reads the settings
of one method.
"""

import dataclasses
from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Any

from sslshift.command import parsed, settings
from sslshift.methods import METHODS
from sslshift.models import ENCODERS, FEATURES
from sslshift.models.opening import HOW_TO_SAY
from sslshift.shift import DEFAULT_DISTANCE
from sslshift.shift.distances import INDEX_DISTANCES
from sslshift.shift.index import FAR_ENDS, SEPARATION
from sslshift.training.sharding import REPLICATED
from sslshift.transfer.protocol import DEFAULT, EVALUATIONS

# Flags of a study that --for_method may set for one method; every other name in --for_method is an option of the method.
OWN_FLAGS = (
    "encoder",
    "dtype",
    "remat",
    "accumulate",
    "head",
    "optimiser",
    "learning_rate",
    "weight_decay",
    "warmup",
    "layer_decay",
    "init_rate",
    "init_frozen",
    "min_crop_scale",
    "jitter",
    "blur",
    "flip",
)


def _field(default, what: str):
    return dataclasses.field(default=default, metadata={"help": what})


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid of runs that share everything except source, unique samples, learner and seed.

    The metadata of a field holds the help text of its flag.
    """

    sources: str = _field(
        "",
        "Candidate sources, separated by ';'. Each is 'URI' or 'NAME = URI' with optional numbers of unique samples "
        "'@N,N,...' or '@all' (default: all). In a path, write ';' as %3B, '?' as %3F, and '@' before a number as %40.",
    )
    mixture: tuple[str, ...] = _field(
        (),
        "A mixture to compare with --sources; may be given many times. Write 'near:URI@N*0.7 + web:URI@N*0.3', with ';' "
        "between stages and optionally 'NAME = ' in front; python -m tools.plan_samples shows a mixture's samples.",
    )
    downstream: str = _field(
        "bundled:fashion_mnist",
        "Labelled source on which encoders are evaluated and to which shifts are measured, or a whole task as in --task.",
    )
    # A separate field, so that the test split can be drawn by the study or be the published one.
    downstream_test: str = _field("", "Labelled source of the test split; empty: a fifth of --downstream is held out.")
    labelled: int = _field(
        5000,
        "Labelled images of each task for the probes; a fifth is for validation; 0: all. A task can set its own number.",
    )
    task: tuple[str, ...] = _field(
        (),
        "A further downstream task on which every encoder is evaluated; may be given many times. Write 'NAME = URI; test=URI; "
        "validation=URI; metric=NAME; labelled=N'; only the URI is required. Metrics: accuracy, mean_class_accuracy, "
        "macro_f1, average_precision.",
    )
    evaluations: str = _field(
        DEFAULT,
        "Evaluations of encoders, separated by ',': linear (required, for the primary hypothesis) and others of "
        f"{', '.join(EVALUATIONS)}.",
    )
    evaluation_options: str = _field(
        "", "Settings of the evaluations, e.g. 'few_shot.draws=10; finetune.epochs=20; knn.neighbours=10,20'."
    )
    features: str = _field("pooled", f"Features to evaluate: one of {', '.join(FEATURES)}.")
    online_every: int = _field(
        0,
        "Steps between reports of the online probe and of label-free signals in metrics.jsonl; 0: no reports.",
    )
    image_size: int = _field(
        0, "Side in pixels to which every image is resized; 0: the side of the downstream images, if they are small."
    )
    budget: int = _field(51_200, "C, the number of training samples that every run sees; rounded down to whole batches.")
    batch_size: int = _field(256, "Images in a training step, over all devices.")
    seeds: int = _field(
        3, "Training seeds of each kind of run. A seed decides the order of samples, the initial weights and the views."
    )
    untrained_seeds: int = _field(
        10,
        "Seeds of untrained encoders, the baseline of gains; they are only evaluated. At least as many as --seeds; as many as "
        "--seeds with --init, whose encoder is then the baseline of gains.",
    )
    draws: int = _field(
        0, "Draws of each subset, each trained with every seed, to estimate both variances; 0: one draw for each seed."
    )
    method: str = _field("simclr", f"SSL methods, separated by ',', each trained on every encoder: {', '.join(METHODS)}.")
    encoder: str = _field(
        "patch_mlp", f"Encoders, separated by ',': {', '.join(ENCODERS)}. Empty: that of --init, the default with it."
    )
    init: str = _field(
        "",
        "Encoder that pretraining continues from, in place of random weights: a run's folder, a file of save_encoder or of a "
        "published encoder (see tools.fetch_encoder). It keeps its normalisation, its positions are resized, and its heads are "
        f"new. Gains are then measured over this encoder as it is. {HOW_TO_SAY}",
    )
    init_rate: float = _field(0.1, "With --init: factor on the learning rate of the encoder; new heads learn at the full rate.")
    init_frozen: float = _field(
        0.1, "With --init: share of the steps, from the first on, in which only the new heads learn and the encoder is frozen."
    )
    for_method: tuple[str, ...] = _field(
        (),
        "Settings for one method only; may be given many times. Write 'METHOD: NAME=VALUE; NAME=VALUE', e.g. 'byol: "
        "learning_rate=2e-3; predictor=512' or 'mae: encoder=vit_nano4; decoder_depth=2'; a name is one of these flags or an "
        "option of the method.",
    )
    dtype: str = _field(
        "float32", "Precision of the networks' arithmetic: float32 or bfloat16; parameters are float32 in both cases."
    )
    head: str = _field(
        "", "Widths of the projector, e.g. 512,128; empty: the recipe's widths. Without effect on mae, which has no projector."
    )
    method_options: str = _field(
        "", "Hyperparameters of the method in place of its recipe's, e.g. 'temperature=0.1; predictor=512,512'."
    )
    optimiser: str = _field(
        "", "Optimiser: adamw, lars or sgd; empty: the optimiser of the method's recipe, with its settings."
    )
    # -1 selects the recipe's value, because 0 is a valid setting.
    learning_rate: float = _field(
        -1.0, "Peak learning rate at a batch of 256, scaled in proportion to the batch; -1: the recipe's value."
    )
    weight_decay: float = _field(-1.0, "Weight decay of all parameters except biases and norms; -1: the recipe's value.")
    warmup: float = _field(-1.0, "Share of the steps in which the learning rate rises; -1: the recipe's value.")
    layer_decay: float = _field(
        -1.0,
        "Factor on the learning rate for every layer of the encoder further from its output; -1: 0.9 for a ViT with --init, "
        "and 1 otherwise.",
    )
    min_crop_scale: float = _field(
        -1.0,
        "Smallest share of an image's area in a view (not of local views of dino and swav); -1: the recipe's value.",
    )
    jitter: float = _field(
        -1.0,
        "Strength of brightness, contrast and saturation jitter; hue has a quarter of it. -1: the recipe's value. Without "
        "effect on mae, whose views keep their colours.",
    )
    blur: float = _field(-1.0, "Probability of a blurred view; -1: the recipe's value. Without effect on mae.")
    flip: float = _field(
        -1.0, "Probability of a mirrored view; use 0 if left and right differ, as in signals over time. -1: the recipe's value."
    )
    primary: str = _field(
        "diversity",
        "The primary hypothesis, which has half of the allowed false findings: diversity (its effect for the nearest source), "
        "shift (the change of that effect with the shift), source (gain of the nearest source over no pretraining), or mixture "
        "(difference of the first mixture from the nearest source).",
    )
    wanted_difference: float = _field(
        1.0, "Difference in percentage points that the study should show; --dry_run and the report say what that takes."
    )
    shift_images: int = _field(2000, "Largest number of images on each side of the shift index; 0: no shift index.")
    shift_distance: str = _field(DEFAULT_DISTANCE, f"Distance behind the shift index: {', '.join(INDEX_DISTANCES)}.")
    shift_far_end: str = _field(
        SEPARATION, f"What a shift index of 1 means, one of {', '.join(FAR_ENDS)}: complete separation, or noise like the task."
    )
    shift_encoder: str = _field(
        "",
        "Encoder whose features are compared: a file of a published encoder (see tools.fetch_encoder) or a run; empty: the "
        f"study trains --reference_seeds encoders on an equal share of every source. {HOW_TO_SAY}",
    )
    reference_seeds: int = _field(
        4,
        "Encoders that the study trains for the shift index, each with its own seed and an equal part of the budget of a run. "
        "With one, the interval of the index does not cover the choice of encoder. Without effect with --shift_encoder.",
    )
    checkpoint_every: int = _field(100, "Steps between checkpoints.")
    max_broken: float = _field(
        0.01,
        "Largest share of a run's unique samples that may be unreadable and are replaced. Above this share, the run stops.",
    )
    on_nonfinite: str = _field(
        "stop",
        "What a run does at a step whose loss or gradient is not finite: stop, or skip the update and count the step, up to a "
        "limit. The report names runs with skipped steps.",
    )
    tensorboard: bool = _field(
        False, "Write the scalars of every run as TensorBoard events too, to tensorboard/ in its folder (extra `tensorboard`)."
    )
    profile: str = _field(
        "",
        "Steps to trace with JAX's profiler, as FIRST:LAST, e.g. 10:20: those of the first run that takes them, into profile/ "
        "in its folder.",
    )
    hang_after: float = _field(
        1800.0,
        "Seconds without a finished training step, its compilation included, after which the stacks of all threads are written "
        "to stderr and to hang.log in the run's folder; 0: never.",
    )
    sharding: str = _field(
        REPLICATED,
        "What each device holds of the training state (parameters, target, optimiser): all of it (replicated), or an equal "
        "part of every large array (fsdp), for networks that fill the memory of a device.",
    )
    remat: bool = _field(
        False,
        "Compute the blocks of ResNets and ViTs again in the backward pass: less memory for activations, a third more "
        "computation.",
    )
    accumulate: int = _field(
        1,
        "Parts in which a batch is taken, one after the other, to save memory. Only for methods for which that is exact: mae "
        "and dino on a ViT.",
    )
    workers: int = _field(0, "Number of processes that read images; 0: threads read them.")
    device_memory: float = _field(
        0.25,
        "Largest share of an accelerator's free memory for training images, which are then read only once; if they need more, "
        "and on CPUs, they are read on the host in every epoch.",
    )
    steps_per_dispatch: int = _field(
        0, "Training steps in one program; 0: one on a CPU, and several on other devices if steps are short."
    )
    shard: str = _field(
        "",
        "Part of the runs, i/n with i from 1 to n: shards of one study can run at the same time, on several machines that "
        "share --out, and --report_only reports all of them; empty: all runs, by one process.",
    )
    price_per_hour: float = _field(
        0.0, "Price of an hour of training on this machine, in the currency of the sources' cost_per_image."
    )
    out: str = _field("results", "Folder for runs, the results table and the report; the same command continues there.")

    def __post_init__(self):
        for name in ("budget", "batch_size", "seeds", "checkpoint_every", "reference_seeds", "untrained_seeds", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        for name in (
            "labelled",
            "image_size",
            "workers",
            "shift_images",
            "draws",
            "max_broken",
            "online_every",
            "price_per_hour",
            "steps_per_dispatch",
            "hang_after",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}.")
        if not self.wanted_difference > 0:
            raise ValueError(f"Expected --wanted_difference above 0 percentage points, got {self.wanted_difference}.")
        if not 0 <= self.device_memory <= 1:
            raise ValueError(f"--device_memory must be a share in [0, 1], got {self.device_memory}.")


def parse_own(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the method's name and its settings in one --for_method: flags as values, options of the method as text.

    Example:
      >>> parse_own("mae: encoder=vit_nano4; learning_rate=1e-3; decoder_depth=2")
      ('mae', {'encoder': 'vit_nano4', 'learning_rate': 0.001, 'decoder_depth': '2'})

    Raises:
      ValueError: the text cannot be read, or the method is unknown.
    """
    method, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or method not in METHODS:
        raise ValueError(
            f"Expected --for_method as 'METHOD: NAME=VALUE; NAME=VALUE' with METHOD one of {', '.join(METHODS)}, got {text!r}."
        )
    # The type of a flag's default decides how its text is read.
    defaults = {field.name: field.default for field in dataclasses.fields(Study)}
    found: dict[str, Any] = {}
    for name, value in settings(rest, flag="--for_method").items():
        if name in defaults and name not in OWN_FLAGS:
            raise ValueError(
                f"--for_method: {name} is not a setting of one method. Expected one of {', '.join(OWN_FLAGS)}, or an option of "
                f"{method}."
            )
        found[name] = parsed(f"--for_method: {name}", value, defaults[name]) if name in OWN_FLAGS else value
    return method, found


def without_given(for_method: Sequence[str], given: Collection[str]) -> tuple[str, ...]:
    """Returns settings per method without the flags in `given`, which the user set for all methods.

    Example:
      >>> without_given(("byol: learning_rate=2e-3; predictor=512",), {"learning_rate"})
      ('byol: predictor=512',)
    """
    remaining = []
    for text in for_method:
        method, own = parse_own(text)
        kept = [f"{name}={value}" for name, value in own.items() if name not in given]
        remaining += [f"{method}: {'; '.join(kept)}"] if kept else []
    return tuple(remaining)


# Settings of an encoder that a CPU trains in seconds, for experiments at the small scale; others have the method's recipe.
SMALL_ENCODER = MappingProxyType(
    {
        "encoder": "patch_mlp",
        "head": "512,128",
        "optimiser": "adamw",
        "learning_rate": 5e-3,
        "weight_decay": 1e-4,
        "warmup": 0.1,
        "min_crop_scale": 0.2,
        "jitter": 0.8,
        "blur": 0.3,
    }
)
