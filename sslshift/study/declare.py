"""The declaration of a study: which sources, how many different images of each, at which budget, judged on what."""

import dataclasses
import re

from sslshift.data.sources.uri import parse_uri, spelled
from sslshift.methods import METHODS
from sslshift.models import ENCODERS, FEATURES
from sslshift.models.opening import HOW_TO_SAY
from sslshift.shift import DEFAULT_DISTANCE, DISTANCES
from sslshift.transfer.protocol import DEFAULT, EVALUATIONS

# Sources whose names are no paths, which may hold an '@'.
_WITHOUT_PATHS = ("bundled", "synthetic", "tfds")


def _field(default, what: str):
    return dataclasses.field(default=default, metadata={"help": what})


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid of runs that share everything except source, unique samples and seed.

    Every field is a command-line flag of each experiment; the help texts are those of the flags.
    """

    sources: str = _field(
        "",
        "Candidate sources, separated by ';'. Each is a URI, with '@N,N,...' for its numbers of unique samples (without: all).",
    )
    mixture: tuple[str, ...] = _field(
        (),
        "A mixture to compare with them; may be given many times. 'near:URI@N*0.7 + web:URI@N*0.3', with ';' between stages "
        "and perhaps 'NAME = ' in front; python -m tools.plan_samples shows what it means.",
    )
    downstream: str = _field(
        "bundled:fashion_mnist",
        "Labelled source that encoders are judged on (and distances measured to), or a whole task as in --task.",
    )
    downstream_test: str = _field("", "Labelled source of the test split; empty: a fifth of --downstream is held out.")
    labelled: int = _field(
        5000, "Labelled images of each task for the probes, a fifth of them for validation; 0: all. A task may say otherwise."
    )
    task: tuple[str, ...] = _field(
        (),
        "A further downstream task that every encoder is judged on; may be given many times. 'NAME = URI; test=URI; "
        "validation=URI; metric=NAME; labelled=N', of which only the URI is needed. Metrics: accuracy, mean_class_accuracy, "
        "macro_f1, average_precision.",
    )
    evaluations: str = _field(
        DEFAULT, f"How encoders are judged: linear, on which gains rest, and others of {', '.join(EVALUATIONS)}."
    )
    evaluation_options: str = _field(
        "", "Settings of the evaluations, e.g. 'few_shot.draws=10; finetune.epochs=20; knn.neighbours=10,20'."
    )
    features: str = _field("pooled", f"Which features are judged: {', '.join(FEATURES)}.")
    online_every: int = _field(
        0,
        "Steps between reports of a probe and of label-free signals while encoders are trained, in metrics.jsonl; 0: none.",
    )
    image_size: int = _field(
        0, "Side in pixels that every image is brought to; 0: that of the downstream images, if they are small."
    )
    budget: int = _field(51_200, "C, the training samples seen by every run; rounded down to whole batches.")
    batch_size: int = _field(256, "Images in a training step, over all devices.")
    seeds: int = _field(3, "Training seeds of each kind of run: the order, the weights and the views.")
    draws: int = _field(
        0, "Draws of each subset, every one with every training seed, so that both variances show; 0: one for each seed."
    )
    method: str = _field("simclr", f"SSL methods, separated by ',', every one with every encoder: {', '.join(METHODS)}.")
    encoder: str = _field("patch_mlp", f"Encoders, separated by ',': {', '.join(ENCODERS)}.")
    for_method: tuple[str, ...] = _field(
        (),
        "Settings of one method alone; may be given many times. 'METHOD: NAME=VALUE; NAME=VALUE', e.g. 'byol: "
        "learning_rate=2e-3; predictor=512' or 'mae: encoder=vit_nano4; decoder_depth=2'; names are those of these flags or of "
        "the method's options.",
    )
    dtype: str = _field("float32", "Of the networks' arithmetic: float32 or bfloat16; parameters are float32 in either case.")
    head: str = _field("", "Widths of the projector, e.g. 512,128; empty: the recipe's. Without effect on mae, which has none.")
    method_options: str = _field(
        "", "Hyperparameters of the method in place of its recipe's, e.g. 'temperature=0.1; predictor=512,512'."
    )
    optimiser: str = _field("", "Optimiser: adamw, lars or sgd; empty: that of the method's recipe, with its settings.")
    learning_rate: float = _field(
        -1.0, "Peak learning rate at a batch of 256, scaled in proportion to the batch; -1: the recipe's."
    )
    weight_decay: float = _field(-1.0, "Weight decay, on weights alone; -1: the recipe's.")
    warmup: float = _field(-1.0, "Share of the steps in which the learning rate rises; -1: the recipe's.")
    min_crop_scale: float = _field(
        -1.0,
        "Smallest share of an image's area that a view shows (dino's local views have bounds of their own); -1: the recipe's.",
    )
    jitter: float = _field(
        -1.0,
        "Strength of brightness, contrast and saturation jitter, hue a quarter of it; -1: the recipe's. Not for mae, whose "
        "views keep their colours.",
    )
    blur: float = _field(-1.0, "Probability of a blurred view; -1: the recipe's. Not for mae either.")
    flip: float = _field(
        -1.0, "Probability of a mirrored view; 0 where left and right differ, as in signals over time; -1: the recipe's."
    )
    shift_images: int = _field(2000, "Images of each side in the shift index, at most; 0: no shift index.")
    shift_distance: str = _field(DEFAULT_DISTANCE, f"Distance behind the shift index: {', '.join(DISTANCES)}.")
    shift_encoder: str = _field(
        "",
        "File of a well-known encoder (see tools.fetch_encoder), or a run, whose features distances are measured on; empty: an "
        f"encoder of the study's own, trained on an equal share of every source. {HOW_TO_SAY}",
    )
    checkpoint_every: int = _field(100, "Steps between checkpoints.")
    max_broken: float = _field(
        0.01, "Share of a run's different images that may be unreadable and are replaced; above it the run stops."
    )
    workers: int = _field(0, "Processes that read images; 0: threads.")
    price_per_hour: float = _field(0.0, "What an hour of training costs here, in the currency of the sources' cost_per_image.")
    out: str = _field("results", "Folder for runs, the results table and the report; the same command goes on there.")

    def __post_init__(self):
        for name in ("budget", "batch_size", "seeds", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        for name in (
            "labelled",
            "image_size",
            "workers",
            "shift_images",
            "draws",
            "max_broken",
            "online_every",
            "price_per_hour",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, but is {getattr(self, name)}.")


def parse_sources(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns `"URI@N,N; URI"` as (URI, unique samples) pairs; no numbers mean all images.

    A `;`, and an `@` before numbers, that belong to a URI are written as `sslshift.data.sources.uri` says: `%3B` and `%40`.

    Example:
      >>> parse_sources("bundled:mnist@10,4_000; synthetic:noise?size=100")
      [('bundled:mnist', (10, 4000)), ('synthetic:noise?size=100', ())]

    Raises:
      ValueError: nothing is named, or a source or one of its numbers is named twice.
    """
    parsed = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        # An '@' before anything but numbers belongs to the URI: folders may have one in their names.
        match = re.fullmatch(r"(?P<uri>.*?)\s*@(?P<numbers>[0-9][0-9_]*(\s*,\s*[0-9][0-9_]*)*)", part)
        uri, numbers = match.group("uri", "numbers") if match else (part, "")
        named = parse_uri(uri) if ":" in uri else None
        if "@" in (named.path if named else uri) and (named is None or named.scheme in _WITHOUT_PATHS):
            raise ValueError(
                f"--sources: {part!r} is no URI with '@' and whole numbers separated by ','; sources are separated by ';'."
            )
        unique = tuple(int(number) for number in filter(None, numbers.split(",")))
        if len(set(unique)) < len(unique):
            raise ValueError(f"--sources: {part!r} asks for one number of unique samples twice.")
        parsed.append((spelled(uri), unique))
    # Two spellings of one URI are one source.
    names = [str(parse_uri(uri)) if ":" in uri else uri for uri, _ in parsed]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--sources must name at least one source, and each only once; got {text!r}.")
    return parsed
