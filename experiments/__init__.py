"""Experiments: one module per question; each declares a study and computes nothing itself.

`python -m experiments.NAME` runs an experiment in a checkout, `sslshift NAME` runs it from anywhere. To add an experiment,
write a module that declares a `Study` and ends in `if __name__ == "__main__": run_experiment(STUDY, spec=__spec__)`; the first
line of its docstring is its line in `sslshift --help`.
"""
