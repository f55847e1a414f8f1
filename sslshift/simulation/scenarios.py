"""Worlds in which the statistics of a report are measured, by name."""

import dataclasses

from sslshift.simulation.world import World

# Two evaluations, as by default.
NULL = World(evaluations=2, evaluation=0.3)
TRENDS = dataclasses.replace(
    NULL, sources=5, seeds=4, gain=4.0, gain_by_index=-3.0, trend=2.0, trend_by_index=-2.5, scatter=0.3
)

SCENARIOS = {
    "null, one method": NULL,
    "null, seven methods": dataclasses.replace(NULL, methods=7),
    "null, 500 images": dataclasses.replace(NULL, images=500),
    "null, noisy seeds": dataclasses.replace(NULL, seed=1.0, run=1.7),
    "null, bad runs": dataclasses.replace(NULL, seeds=4, bad=0.1, bad_loss=8.0),
    "null, unfinished draws": dataclasses.replace(NULL, sources=3, unique=(64, 640), seeds=2, draws=3, finished=0.75),
    "null, labelled draws": dataclasses.replace(
        NULL, sources=3, unique=(64, 640), draws=3, subset=0.5, labelled_draws=10, labelled=1.0, images=1000
    ),
    "gain of one point": dataclasses.replace(NULL, gain=1.0),
    "trends": TRENDS,
    "trends, one reference encoder": dataclasses.replace(TRENDS, encoder=0.15),
    "trends, four reference encoders": dataclasses.replace(TRENDS, encoder=0.15, encoders=4),
    "trends, three draws": dataclasses.replace(TRENDS, seeds=3, draws=3, subset=0.6),
}
