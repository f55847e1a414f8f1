"""SSL methods, one file each: views, networks, loss, and updates besides the gradient.

A method is built from an encoder and consists of data and pure functions (`base.Method`). `METHODS[name].build(encoder)`
builds a method by its default recipe; `recipes.py` holds all recipes side by side; `siamese` has the parts that methods with
several views share: networks, a target that follows them, a queue, local views.

To add a method, write its file and enter its recipe in `METHODS` of `recipes.py`. Every experiment then takes it as
`--method=NAME`, and the tests of all methods run on it: `test_methods` (the same step on one device, on eight and inside
shard_map; invariances), `test_training` (resumption, falling loss) and `test_settings`. Put a test that recomputes the
method in NumPy into `test_method_definitions` (`test_swav_method` for SwAV), and the objective into `sslshift.losses`.

How the methods differ:

| method | networks besides the encoder | loss | updates besides the gradient |
|---|---|---|---|
| simclr | projector | `nt_xent` | |
| moco_v3 | projector, predictor | `info_nce`, both directions | target follows |
| byol | projector, predictor | 2 + 2 `negative_cosine`, both directions | target follows |
| simsiam | projector, predictor | `negative_cosine`, mean of both directions | predictor's learning rate constant |
| barlow_twins | projector | `barlow_twins` | |
| vicreg | projector | `vicreg` | |
| dino | projector with prototypes | `dino` | teacher follows, centre, prototypes frozen at first |
| mae | decoder | `masked_reconstruction` | |
| nnclr | projector, predictor | `nnclr`, mean of both directions | queue of past projections |
| swav | projector, prototypes | `swav` | queue of past projections, prototypes of unit length and frozen at first |
"""

from sslshift.methods.base import Method, Output, StepContext
from sslshift.methods.recipes import METHODS, Recipe

__all__ = ["METHODS", "Method", "Output", "Recipe", "StepContext"]
