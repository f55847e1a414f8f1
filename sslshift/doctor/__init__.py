"""Checks of a machine: whether training, evaluations and distances work and are right there. `tools.doctor` prints them.

| file | content |
|---|---|
| `findings` | `Finding`: a verdict, a figure and advice; `examined` makes checks, and an error fails only its own check |
| `machine` | versions, devices, cores, settings, folder, compilation cache |
| `arithmetic` | a float32 product, and a ResNet forwards and backwards, against NumPy |
| `distances`, `evaluations`, `finetuning` | every distance, score and evaluation of the package, against NumPy |
| `training` | every method trains, and a stopped run continues from its checkpoint |
| `speed` | the step against a matrix product, the input pipeline against the step |
| `references`, `distance_references` | plain NumPy formulas in float64 |

Each of these files has its checks in `CHECKS`, by name. A new method, evaluation or distance gets its check by itself or by an
entry there; `tests/test_doctor.py` compares the names.
"""

from sslshift.doctor import arithmetic, distances, evaluations, finetuning, machine, speed, training
from sslshift.doctor.findings import FAILED, PASS, SLOW, Check, Finding, chosen, examined, table_of

CHECKS: dict[str, Check] = {
    **machine.CHECKS,
    **arithmetic.CHECKS,
    **distances.CHECKS,
    **evaluations.CHECKS,
    **finetuning.CHECKS,
    **training.CHECKS,
    **speed.CHECKS,
}

__all__ = ["CHECKS", "FAILED", "PASS", "SLOW", "Check", "Finding", "chosen", "examined", "table_of"]
