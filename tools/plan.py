r"""Says what to collect next: how much of each source, which training budget, what it returns, and how sure that is.

    python -m tools.plan --results=results/pilots --prices=prices.toml --money=1000
    python -m tools.plan --results=results/pilots --results=more.csv --prices=prices.toml --money=1000 --target=0.9
    python -m tools.plan --results=results/pilots --predict=grid.csv

Fits laws to the runs of pilots (python -m experiments.pilots), averages them by how well they predict pilots that they have not
seen, and compares what the money can buy: images of each source, mixtures of them, training alone, or nothing. Says when a
further pilot is worth its price, and when two plans are indistinguishable. OUT gets `plan.json` for programs, the page
`plan.html`, and `rounds/`, which keeps what was predicted: given again with more results, the command says what changed and
scores its earlier predictions. With --predict, `predictions.csv` has the rows of a table (source, unique, budget) with the
predicted accuracy of a run and its interval. A --prices=FILE that does not exist is answered with an example of such a file.
"""

import dataclasses

from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.planning import PlanSettings, run_plan
from sslshift.planning.laws import SHARED_PRIORS
from sslshift.reporting import say

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "results",
    None,
    "Folder of a study or of experiments.pilots, or a CSV file with the columns of results.csv; may be given many times.",
    required=True,
)
flags.DEFINE_string("prices", "", "File of prices (TOML) of the images of each source and of an hour of training.")
flags.DEFINE_float("money", None, "The most that images and training may cost, in the currency of the prices.")
flags.DEFINE_float("target", None, "Accuracy to reach, as a share; the plan is then the cheapest that reaches it with --level.")
flags.DEFINE_float("level", 0.9, "Probability of intervals and of reaching the target.")
flags.DEFINE_string("task", "", "Task to plan for, if the results have several.")
flags.DEFINE_string("metric", "", "Metric to plan for, if the results have several.")
flags.DEFINE_string("method", "", "Method to plan with, if the results have several.")
flags.DEFINE_string("encoder", "", "Encoder to plan with, if the results have several.")
flags.DEFINE_list("ignore", [], "Names or URIs of sources to exclude, separated by commas.")
flags.DEFINE_list("flat", [], f"Parameters of the laws whose priors are switched off, among {', '.join(SHARED_PRIORS)}.")
flags.DEFINE_string("predict", "", "CSV file with the columns source, unique and budget, whose accuracies are predicted.")
flags.DEFINE_string("out", "results/plan", "Folder for the plan, the page, the predictions and the rounds.")


def main() -> None:
    console = Console(emoji=False, width=None if Console().is_terminal else 120)
    settings = PlanSettings(**{each.name: FLAGS[each.name].value for each in dataclasses.fields(PlanSettings)})
    report = run_plan(settings)
    # Written first: whoever reads only the first lines (`| head`) has the files too.
    files = report.write()
    report.show(console)
    say(console, f"wrote {', '.join(map(str, files))}")


if __name__ == "__main__":
    run_command(main)
