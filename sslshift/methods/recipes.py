"""The default recipe of every method for small images, as data; the registry of methods.

If a recipe names solo-learn, its numbers come from the CIFAR configurations at commit 9187ea3
(https://github.com/vturrisi/solo-learn); other image sizes and encoders may need other values.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.methods.barlow_twins import barlow_twins
from sslshift.methods.base import Method
from sslshift.methods.byol import byol
from sslshift.methods.dino import dino
from sslshift.methods.mae import mae
from sslshift.methods.moco_v3 import moco_v3
from sslshift.methods.nnclr import nnclr
from sslshift.methods.simclr import simclr
from sslshift.methods.simsiam import simsiam
from sslshift.methods.swav import swav
from sslshift.methods.vicreg import vicreg
from sslshift.models import ViT


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method with its default hyperparameters.

    Args:
      make: builds the method: `make(encoder, views, **options)`.
      views: settings of an image's views.
      options: values of all hyperparameters of the method.
      optimiser: fields of `sslshift.training.Optimiser`; the learning rate applies to a batch of 256.
      source: origin of these numbers.
      vit_options: hyperparameters that replace those of `options` for a ViT.
      vit_optimiser: the optimiser for a ViT; None: that of MoCo v3, which its authors also use for other methods on ViTs.
    """

    make: Callable[..., Method]
    views: tuple[ViewSettings, ...]
    options: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    source: str
    vit_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vit_optimiser: Mapping[str, Any] | None = None

    def options_for(self, encoder: nn.Module) -> dict[str, Any]:
        return {**self.options, **(self.vit_options if isinstance(encoder, ViT) else {})}

    def optimiser_for(self, encoder: nn.Module) -> dict[str, Any]:
        return dict((self.vit_optimiser or _VIT_OPTIMISER) if isinstance(encoder, ViT) else self.optimiser)

    def build(self, encoder: nn.Module, views: tuple[ViewSettings, ...] | None = None, **changes: Any) -> Method:
        """Returns the method on an encoder, with some of its options changed.

        Raises:
          ValueError: the method has no such option, an option is out of its range, the number of views is wrong, or the
            method cannot use this kind of encoder.
        """
        options = self.options_for(encoder)
        for name in changes:
            if name not in options:
                others = [other for other, recipe in METHODS.items() if name in recipe.options]
                hint = f" {name} is an option of {', '.join(others)}." if others else ""
                known = ", ".join(options)
                raise ValueError(f"Expected one of {known} as an option of {self.make.__name__}, got {name!r}.{hint}")
            if isinstance(options[name], tuple):
                changes[name] = _widths(name, changes[name])
        views = self.views if views is None else views
        if len(views) != len(self.views):
            raise ValueError(f"Expected settings of {len(self.views)} view(s) for {self.make.__name__}, got {len(views)}.")
        return self.make(encoder, tuple(views), **(options | changes))


def _widths(name: str, value: Any) -> tuple[int, ...]:
    # A tuple has a hash, which the cache of compiled steps needs for every field of a module.
    widths = tuple(value) if isinstance(value, Sequence) else ()
    if not widths or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"Expected widths for {name}, whole numbers above 0 such as (512, 128), got {value!r}.")
    return widths


# The augmentations that solo-learn names symmetric, weak and asymmetric, and its augmentations for VICReg and MAE.
_SYMMETRIC = ViewSettings(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_probability=0.5)
_WEAK = ViewSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_probability=0.5)
_PLAIN = ViewSettings(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
_ASYMMETRIC = (_PLAIN, dataclasses.replace(_PLAIN, solarise_probability=0.2))
_VICREG = dataclasses.replace(_PLAIN, min_crop_scale=0.2, solarise_probability=0.1)
_RECONSTRUCTION = ViewSettings(jitter_probability=0.0, grayscale_probability=0.0)

# 10 of 1,000 epochs.
_WARMUP = 0.01
# Learning rate and weight decay come from the paper on MoCo v3.
_VIT_OPTIMISER = {"name": "adamw", "learning_rate": 1.5e-4, "weight_decay": 0.1, "warmup": 0.1}
# Learning rate, weight decay and beta2 come from solo-learn's recipe for MAE.
_MAE_OPTIMISER = {"name": "adamw", "learning_rate": 2e-4, "weight_decay": 0.05, "warmup": 0.05, "beta2": 0.95}


def _lars(learning_rate: float, weight_decay: float) -> dict[str, Any]:
    return {"name": "lars", "learning_rate": learning_rate, "weight_decay": weight_decay, "warmup": _WARMUP}


METHODS = {
    "simclr": Recipe(
        simclr,
        (_SYMMETRIC, _SYMMETRIC),
        {"projector": (2048, 256), "temperature": 0.2},
        _lars(0.4, 1e-4),
        "solo-learn",
    ),
    "moco_v3": Recipe(
        moco_v3,
        _ASYMMETRIC,
        {
            "projector": (4096, 256),
            "predictor": (4096,),
            "prediction_norm": False,
            "frozen_embedding": False,
            "temperature": 0.2,
            "momentum": 0.99,
        },
        _lars(0.3, 1e-6),
        "solo-learn; for ViTs the paper (https://arxiv.org/abs/2104.02057)",
        {"projector": (4096, 4096, 256), "prediction_norm": True, "frozen_embedding": True},
    ),
    "byol": Recipe(
        byol,
        _ASYMMETRIC,
        {"projector": (4096, 256), "predictor": (4096,), "momentum": 0.99},
        _lars(1.0, 1e-5),
        "solo-learn",
    ),
    "simsiam": Recipe(
        simsiam,
        (_WEAK, _WEAK),
        {"projector": (2048, 2048, 2048), "predictor": (512,)},
        {"name": "sgd", "learning_rate": 0.5, "weight_decay": 1e-5, "warmup": _WARMUP},
        "solo-learn",
    ),
    "barlow_twins": Recipe(
        barlow_twins,
        _ASYMMETRIC,
        {"projector": (2048, 2048, 2048), "off_diagonal_weight": 5.1e-3, "scale": 0.1},
        _lars(0.3, 1e-4),
        "solo-learn",
    ),
    "vicreg": Recipe(
        vicreg,
        (_VICREG, _VICREG),
        {"projector": (2048, 2048, 2048), "invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0},
        _lars(0.3, 1e-4),
        "solo-learn; the variance term is the mean of the views', as in the authors' code, and not their sum",
    ),
    "dino": Recipe(
        dino,
        _ASYMMETRIC,
        {
            "projector": (2048, 2048, 256),
            "prototypes": 4096,
            "student_temperature": 0.1,
            "teacher_temperature": 0.07,
            "first_teacher_temperature": 0.07,
            "temperature_warmup": 0.0,
            "center_momentum": 0.9,
            "momentum": 0.9995,
            "frozen": 0.001,
            "local_views": 0,
            "local_size": 0,
            "local_crop_scale": 0.4,
        },
        _lars(0.3, 1e-6),
        "solo-learn (its first epoch of 1,000 with frozen prototypes is a share of 0.001); for ViTs the paper "
        "(https://arxiv.org/abs/2104.14294), without its clipping of gradients and its rising weight decay",
        {"first_teacher_temperature": 0.04, "temperature_warmup": 0.3, "momentum": 0.996, "frozen": 0.01},
        {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.04, "warmup": 0.1},
    ),
    "mae": Recipe(
        mae,
        (_RECONSTRUCTION,),
        {"mask_ratio": 0.75, "decoder_width": 0, "decoder_depth": 8, "decoder_heads": 0, "normalize": True},
        _MAE_OPTIMISER,
        "solo-learn; the paper (https://arxiv.org/abs/2111.06377)",
        vit_optimiser=_MAE_OPTIMISER,
    ),
    "nnclr": Recipe(
        nnclr,
        _ASYMMETRIC,
        {"projector": (2048, 2048, 256), "predictor": (4096,), "temperature": 0.2, "queue": 65_536},
        _lars(0.4, 1e-5),
        "solo-learn",
    ),
    "swav": Recipe(
        swav,
        (_SYMMETRIC, _SYMMETRIC),
        {
            "projector": (2048, 128),
            "prototypes": 3000,
            "temperature": 0.1,
            "epsilon": 0.05,
            "iterations": 3,
            "frozen": 0.002,
            "queue": 3840,
            "queue_start": 0.05,
            "local_views": 0,
            "local_size": 0,
            "local_crop_scale": 0.14,
        },
        _lars(0.6, 1e-6),
        "solo-learn (prototypes frozen for 2 epochs of 1,000 and a queue from epoch 50 on, as shares of the run); from the "
        "authors (https://github.com/facebookresearch/swav) the scale of local crops, and prototypes that are brought back to "
        "length 1 after each step, where solo-learn has a weight norm",
    ),
}
