"""Transfer: how well an encoder serves downstream tasks.

`tasks` declares a task and makes its splits; `features` runs an encoder over a source, in blocks, over all devices, with a
cache. `knn`, `linear_probe`, `few_shot` and `sgd_probe` judge frozen features and are called alike (`evaluation`); `finetune`
trains the whole network. `protocol` puts them together: features once, hyperparameters by the validation split, the test split
scored once. `metrics` are what it is scored by, `inference` has intervals and comparisons of scores.

Scores are offline: the encoder is finished. `sslshift.training.online` has the probe that watches one being trained.
"""

from sslshift.transfer.evaluation import Outcome, Split, Splits
from sslshift.transfer.features import NetworkEncoder, encoder_of, extract, pixel_encoder
from sslshift.transfer.inference import bootstrap_interval, compare, mcnemar, runs_interval
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import EVALUATIONS, Evaluated, evaluate, parse_evaluations
from sslshift.transfer.tasks import Task, make_task, open_task, parse_task

__all__ = [
    "EVALUATIONS",
    "METRICS",
    "Evaluated",
    "NetworkEncoder",
    "Outcome",
    "Split",
    "Splits",
    "Task",
    "bootstrap_interval",
    "compare",
    "encoder_of",
    "evaluate",
    "extract",
    "make_task",
    "mcnemar",
    "open_task",
    "parse_evaluations",
    "parse_task",
    "pixel_encoder",
    "runs_interval",
]
