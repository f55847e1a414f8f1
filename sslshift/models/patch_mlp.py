"""A small encoder that a CPU trains at thousands of images a second."""

import flax.linen as nn
import jax

from sslshift.models.convolution import convolve


class PatchMLP(nn.Module):
    """Patch embedding, then one dense layer over all patches: two matrix products, for images of about 32 pixels.

    Images `[batch, height, width, channels]` whose sides the patch divides, to features `[batch, features]`.

    Args:
      patch: side of a patch in pixels.
      width: features of a patch.
      features: of the image.
    """

    patch: int = 4
    width: int = 48
    features: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"Images of {x.shape[1]} x {x.shape[2]} cannot be cut into patches of {self.patch}; use another size."
            )
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, use_bias=False, conv_general_dilated=convolve)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dense(self.features, use_bias=False)(x.reshape(len(x), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
