"""The way from Python to a trained encoder: the example of the README, and encoders of other people's modules."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def example():
    """Returns the first block of Python below the README's heading "From Python"."""
    section = README.read_text().partition("\n## From Python\n")[2].partition("\n## ")[0]
    return re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]


def test_the_example_of_the_readme_trains_an_encoder_and_evaluates_it(tmp_path):
    assert len(example().strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", example()], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Guessing one of ten classes is right for a tenth of the images.
    assert 0.5 < float(done.stdout.split()[-1]) < 1
