"""SSL methods, one file each: views, networks, loss, and what is updated besides the gradient.

A method is built from an encoder and is then data plus pure functions (`base.Method`). `METHODS[name].build(encoder)` builds
one by its default recipe; `recipes.py` holds all of them side by side. To add a method, write its file and enter its recipe
there.

What differs from method to method:

| method | networks beside the encoder | loss | besides the gradient |
|---|---|---|---|
| simclr | projector | `nt_xent` | |
| moco_v3 | projector, predictor | `info_nce`, both directions | target follows |
| byol | projector, predictor | 2 + 2 `negative_cosine`, both directions | target follows |
| simsiam | projector, predictor | `negative_cosine`, mean of both directions | predictor's learning rate constant |
| barlow_twins | projector | `barlow_twins` | |
| vicreg | projector | `vicreg` | |
| dino | projector with prototypes | `dino` | teacher follows, centre, prototypes frozen at first |
| mae | decoder | `masked_reconstruction` | |
| nnclr | projector, predictor | cross-entropy of neighbours | queue of past projections |
| swav | projector, prototypes | `swav` | queue of past projections, prototypes of unit length and frozen at first |
"""

from sslshift.methods.base import Method, Output, StepContext
from sslshift.methods.recipes import METHODS, Recipe

__all__ = ["METHODS", "Method", "Output", "Recipe", "StepContext"]
