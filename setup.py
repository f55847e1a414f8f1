"""The packages of the distribution; everything else is in pyproject.toml.

The commands in `tools` and `experiments` are installed as `sslshift.tools` and `sslshift.experiments`: top-level packages of
such general names would collide with those of others.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sslshift", "sslshift.*"]), "sslshift.experiments", "sslshift.tools"],
    package_dir={"sslshift.experiments": "experiments", "sslshift.tools": "tools"},
)
