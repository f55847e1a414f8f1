"""How tables put numbers and names into words."""

import math
from collections.abc import Sequence

from sslshift.reporting import Table
from sslshift.study.compared import Difference
from sslshift.study.results import Results
from sslshift.transfer.inference import Estimate

# How tables call an evaluation; others by their own name, with spaces.
_CALLED = {
    "knn": "kNN",
    "linear": "linear",
    "sgd": "SGD probe",
    "finetune": "fine-tuned",
    "finetune_frozen_bn": "fine-tuned, BN frozen",
}


def called(evaluation: str) -> str:
    """What people call an evaluation."""
    return _CALLED.get(evaluation) or evaluation.replace("few_shot", "few-shot").replace("_", " ")


def percent(value: Estimate | Difference | None, signed: bool = False) -> str:
    """In percent (of a difference: in points), with half its interval."""
    if value is None:
        return "missing"
    mean, half = (value.value, value.half_width) if isinstance(value, Estimate) else (value.mean, value.half)
    text = f"{mean * 100:+.1f}" if signed else f"{mean * 100:.1f}"
    return text if math.isnan(half) else f"{text} ± {half * 100:.1f}"


def p_text(difference: Difference | None) -> str:
    """An adjusted p-value."""
    if difference is None or math.isnan(difference.adjusted):
        return "n/a"
    return f"{difference.adjusted:.2g}" if difference.adjusted >= 0.001 else "<0.001"


def learner_table(
    results: Results, name: str, title: str, head: Sequence[str], lines: Sequence[Sequence[str]], note: str = "", words: int = 1
) -> Table:
    """A table whose lines begin with method and encoder, for which `head` has no name: they are shown where there are several.

    Args:
      results: of the study.
      name, title, head, lines, note: of the table.
      words: its `text_columns`, without that of method and encoder.
    """
    if len(results.opened.learners) == 1:
        return Table(name, title, head, [line[1:] for line in lines], note, words)
    return Table(name, title, ["method", *head], lines, note, words + 1)
