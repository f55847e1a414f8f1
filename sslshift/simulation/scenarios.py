"""Worlds in which the statistics of a report are measured, by name."""

import dataclasses

from sslshift.simulation.world import World

NULL = World()

SCENARIOS = {
    "null, one method": NULL,
    "null, seven methods": dataclasses.replace(NULL, methods=7),
    "null, 500 images": dataclasses.replace(NULL, images=500),
    "null, seeds vary by two points": dataclasses.replace(NULL, seed=1.0, run=1.7),
    "null, bad runs": dataclasses.replace(NULL, seeds=4, bad=0.1, bad_loss=8.0),
    "gain of one point": dataclasses.replace(NULL, gain=1.0),
    "gains and trends": dataclasses.replace(
        NULL, gain=4.0, gain_by_index=-3.0, trend=2.0, trend_by_index=-2.5, scatter=0.3, seeds=4
    ),
    "gains and trends, three draws": dataclasses.replace(
        NULL, gain=4.0, gain_by_index=-3.0, trend=2.0, trend_by_index=-2.5, draws=3, subset=0.6
    ),
    "few-shot, three draws": dataclasses.replace(NULL, draws=3, subset=0.5, labelled_draws=20, labelled=1.0, images=1000),
}
