r"""Decides what to collect next: measures the shift, trains pilots, plans, and ends with one page, the decision on top.

    python -m tools.decide --task=folder:/data/parts --source="near = folder:/data/near" --source="web = folder:/data/web" \
      --prices=prices.toml --money=1000 --out=results/decision

The task is a folder with a subfolder of images for each class, and the sources are folders of images, with or without labels.
The command says what the pilots take before it trains them, and asks if that is more than `--hours`. Stopped and given again,
it goes on. Its three parts are commands of their own, with more flags: `tools.shift` (OUT/shift), `experiments.pilots`
(OUT/pilots, with a report for each budget), and `tools.plan` (OUT).
"""

import dataclasses
import shlex

from absl import flags

from sslshift.command import command_line
from sslshift.decision.walk import SMALL, DecisionSettings, decide_on
from sslshift.models.opening import HOW_TO_SAY
from sslshift.stopping import Stop
from sslshift.study.cli import console
from sslshift.study.progress import Progress
from sslshift.transfer.encoders import UNTRAINED

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "task", None, "Your labelled images: a URI such as folder:/data/parts, or a whole task as in tools.evaluate.", required=True
)
flags.DEFINE_multi_string(
    "source", None, "Source that you could collect from: 'URI' or 'NAME = URI'; may be given many times.", required=True
)
flags.DEFINE_string("prices", None, "TOML file of prices, as in tools.plan.", required=True)
flags.DEFINE_float("money", None, "The most that images and training may cost.", lower_bound=0, required=True)
flags.DEFINE_float("target", None, "Accuracy to reach, as a share: the cheapest plan that reaches it is then the best.", 0, 1)
flags.DEFINE_float("level", 0.9, "Probability of the intervals, and of reaching the target.", 0, 1)
flags.DEFINE_string(
    "encoder",
    SMALL.encoder,
    "Encoder of the pilots, see --encoder of experiments.pilots; others than the default have the method's recipe.",
)
flags.DEFINE_integer("image_size", 32, "Side in pixels to which the pilots resize every image.", 1, 4096)
flags.DEFINE_integer("budget", 40_960, "Training samples of the dearer pilots; the others have a fourth.", lower_bound=1)
flags.DEFINE_string("shift_encoder", UNTRAINED, f"Encoder of OUT/shift, see --encoder of tools.shift. {HOW_TO_SAY}")
flags.DEFINE_float("hours", 0.5, "Hours that the pilots may take without a question.", lower_bound=0)
flags.DEFINE_boolean("yes", False, "Train the pilots however long they take, without a question.")
flags.DEFINE_string("out", "results/decision", "Folder for everything; the same command continues there.")


def _command(settings: DecisionSettings) -> str:
    """Returns the command line with every flag, for the reports."""
    parts = ["python -m tools.decide"]
    for name, value in dataclasses.asdict(settings).items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        parts += [shlex.quote(f"--{name}={each}") for each in values]
    return " \\\n  ".join(parts)


if __name__ == "__main__":
    stop = Stop()
    with command_line(lambda: FLAGS.out, stop=stop) as clock:
        settings = DecisionSettings(**{each.name: FLAGS[each.name].value for each in dataclasses.fields(DecisionSettings)})
        decide_on(settings, Progress(console(), clock, stop), _command(settings))
