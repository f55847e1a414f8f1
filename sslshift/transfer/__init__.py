"""Transfer: the performance of a finished encoder on downstream tasks.

- `declaration` parses tasks, `tasks` makes their splits, `features` has encoders as functions of images, and `extraction` runs
  one on the images of a source, on all devices.
- `knn`, `linear_probe`, `few_shot` and `sgd_probe` evaluate frozen features and share the interface in `evaluation`; `finetune`
  trains the whole network. The features of a network are on the device; evaluations take features from there or from the host.
- `protocol` combines them: it extracts features once, chooses hyperparameters on the validation split, and scores the test
  split once. `predictions` keeps the predictions for later comparisons.
- `metrics` score predictions; `inference` has intervals of scores and comparisons of encoders.
- `scores` keeps an encoder's scores in folders; `paired` puts the scores of many encoders on common test images.
- `matrix` loads finished encoders and compares them on tasks; `matrix_report` does this in one call, for `tools.evaluate`.
- `encoders` opens an encoder by name; `activations` counts the activations of its layers.

Scores here are offline: the encoder is finished. `sslshift.training.online` has the probe that runs during training.

To add an evaluation on frozen features, write one file like `knn.py` with a frozen dataclass that is called with `Splits` and a
`Metric`. In `protocol.py`, add its class to `Evaluation`, one line to `EVALUATIONS`, and a title to `_TITLES` if tables should
show another name. Its settings are then options of --evaluation_options; add it to the list in tools/README.md too. An
evaluation that needs the network itself, such as fine-tuning, gets a branch in `protocol._outcomes`. To add a metric, add a
`Metric` to the table at the end of `metrics.py`; it must accept weights, which the bootstrap uses.

Tests: `test_knn.py`, `test_linear_probe.py` and `test_probes.py` compare the evaluations with plain loops and scikit-learn,
`test_metrics.py` does so for the metrics, `test_intervals.py` and `test_statistics.py` simulate the coverage of intervals,
as do `test_proportions.py` (all images right, groups), `test_outliers.py` and `test_paired.py` (draws, unfinished studies).
`test_transfer.py` follows images through the protocol, `test_tasks.py`, `test_multilabel.py` and `test_groups.py` cover tasks.
Builders that several tests share are in `conftest.py`.
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.transfer.declaration import TaskDeclaration, open_task, parse_task
    from sslshift.transfer.evaluation import Outcome, Split, Splits
    from sslshift.transfer.extraction import extract
    from sslshift.transfer.features import NetworkEncoder, encoder_of, pixel_encoder
    from sslshift.transfer.inference import bootstrap_interval, compare, mcnemar, runs_interval
    from sslshift.transfer.metrics import METRICS
    from sslshift.transfer.protocol import EVALUATIONS, Evaluated, evaluate, parse_evaluations
    from sslshift.transfer.tasks import Task, make_task

__all__ = [
    "EVALUATIONS",
    "METRICS",
    "Evaluated",
    "NetworkEncoder",
    "Outcome",
    "Split",
    "Splits",
    "Task",
    "TaskDeclaration",
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
