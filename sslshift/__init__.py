"""sslshift: which data should a self-supervised encoder be pretrained on, at a fixed budget?

The rooms, from the ground up (each imports only from those before it): `losses`, `budget`, `models`, `data`, `methods`,
`training`, `transfer`, `shift`, `study`. Their package docstrings explain them; the README has the words.
"""

from sslshift.budget import Budget

__all__ = ["Budget"]
