"""Makes the encoder that ships with the package, `sslshift/models/bundled/`, from a finished run on generated images.

    python -m experiments.reference_encoder --scale=gpu
    python -m tools.make_bundled_encoder --run=results/reference_encoder_gpu/runs/NAME --trained="8 minutes on one H100"

Weights are rounded to float16. Ship the result only if `tools.evaluate --run=bundled` shows that it is better than the same
network untrained, on tasks of other images than its own.
"""

from absl import flags

from sslshift.command import run_command
from sslshift.models.bundled import write_bundled
from sslshift.models.weights import read_encoder

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of the finished run.", required=True)
flags.DEFINE_string("trained", None, "Machine and time of the training, for the card.", required=True)


def main() -> None:
    encoder = read_encoder(FLAGS.run)
    file = write_bundled(encoder, {"trained": FLAGS.trained, "licence": "CC0-1.0 (generated)"})
    print(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    run_command(main)
