"""Every method trains to the same numbers on one, two and four processes, which have eight devices together."""

import json

import numpy as np
import pytest
from process_runs import ended, said, started

from sslshift.methods import METHODS


def trained(folder, processes):
    def command(address, processes, process):
        return ["tests/cluster_worker.py", str(folder), ",".join(METHODS), "20", address, str(processes), str(process)]

    with started(command, processes, 8 // processes, folder) as running:
        assert ended(running) == [0] * processes, said(folder, 0)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_method_trains_to_the_same_numbers_as_on_one_process(alone, tmp_path, processes):
    together = trained(tmp_path, processes)
    for name in METHODS:
        losses = [[json.loads(line)["loss"] for line in (run / name / "metrics.jsonl").open()] for run in (alone, together)]
        arrays = [np.load(run / f"{name}.npz") for run in (alone, together)]
        assert len(losses[0]) == 20
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5, atol=1e-5, err_msg=name)
        for leaf in arrays[0]:
            np.testing.assert_allclose(arrays[1][leaf], arrays[0][leaf], rtol=1e-4, atol=1e-5, err_msg=f"{name} {leaf}")
