"""SSL methods, one file each: views, networks, loss, and what is updated besides the gradient.

A method is built from an encoder and is then data plus pure functions (`base.Method`). To add one, write its file and
name it in `METHODS`.
"""

from sslshift.methods.base import Method
from sslshift.methods.simclr import simclr
from sslshift.methods.vicreg import vicreg

METHODS = {"simclr": simclr, "vicreg": vicreg}

__all__ = ["METHODS", "Method", "simclr", "vicreg"]
