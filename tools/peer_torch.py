"""SimCLR in plain PyTorch; parts have the names of our parameters, so that a test can copy these."""

import collections
import functools

import torch
from torch import nn
from torch.nn import functional

from .bench_turns import PeerCase
from .peer_torch_resnet import TorchResNet
from .peer_torch_vit import TorchViT

NETWORKS = {
    "resnet18_cifar": functools.partial(TorchResNet, (2, 2, 2, 2), bottleneck=False, small_images=True),
    "resnet50": functools.partial(TorchResNet, (3, 4, 6, 3), bottleneck=True, small_images=False),
    "vit_b16": functools.partial(TorchViT, width=768, depth=12, heads=12, patch=16),
}


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns SimCLR's loss of embeddings `[2 * batch, dim]`, the first views in front of the second views."""
    z = functional.normalize(z.float(), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    return functional.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(z) // 2))


class Networks(nn.Module):
    """Encoder and projector; maps two views, one behind the other, to embeddings `[2 * batch, dim]`."""

    def __init__(self, encoder: str, projector: tuple[int, int], side: int):
        super().__init__()
        self.encoder = NETWORKS[encoder](side=side)
        hidden, dim = projector
        layers = {"Dense_0": nn.Linear(self.encoder.features, hidden), "relu": nn.ReLU(), "Dense_1": nn.Linear(hidden, dim)}
        self.projector = nn.Sequential(collections.OrderedDict(layers))
        self.batch_norm = any(isinstance(each, nn.BatchNorm2d) for each in self.modules())

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        # Batch norm sees one view at a time, as in ours. Without batch norm, one call on both views is the same.
        parts = views.chunk(2) if self.batch_norm else (views,)
        return torch.cat([self.projector(self.encoder(part)) for part in parts])

    def loss(self, views: torch.Tensor, temperature: float, bfloat16: bool) -> torch.Tensor:
        with torch.autocast(views.device.type, torch.bfloat16, enabled=bfloat16):
            z = self(views)
        return nt_xent(z, temperature)


class Peer:
    """A training step of SimCLR on views that are already on the device; eager if `torch.compile` fails.

    Args:
      case: encoder, arithmetic (bfloat16 uses autocast), side and batch.
      projector, temperature: hyperparameters of SimCLR.
    """

    def __init__(self, case: PeerCase, *, projector: tuple[int, int], temperature: float):
        torch.set_float32_matmul_precision("high")  # TF32, as in JAX
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.networks = Networks(case.encoder, projector, case.side).to(self.device, memory_format=torch.channels_last).train()
        weights = list(self.networks.parameters())
        self.parameters = sum(each.numel() for each in weights)
        kinds = {1e-4: [each for each in weights if each.ndim > 1], 0.0: [each for each in weights if each.ndim <= 1]}
        groups = [{"params": several, "weight_decay": decay} for decay, several in kinds.items()]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, fused=self.device == "cuda")
        views = torch.randn(2 * case.batch, 3, case.side, case.side)
        views = views.to(self.device, memory_format=torch.channels_last)
        self.loss = torch.compile(self.networks.loss)
        self.arguments = (views, temperature, case.dtype == "bfloat16")
        self.version = f"torch {torch.__version__}"
        self.notes = ""
        try:
            self.steps(1)
        except Exception as error:
            # The first step compiles. Without a C++ compiler, or on an old GPU, this raises errors of many kinds.
            self.notes = f"eager, since torch.compile failed: {str(error).strip().splitlines()[0]}"
            self.loss = self.networks.loss

    def steps(self, count: int) -> None:
        """Makes training steps, and waits until they are done."""
        for _ in range(count):
            self.optimiser.zero_grad(set_to_none=True)
            self.loss(*self.arguments).backward()
            self.optimiser.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        """Returns the largest memory in use so far; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def release(self) -> None:
        """Returns unused memory to the GPU, which both sides share."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
