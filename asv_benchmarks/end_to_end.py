"""A training step with PyTorch's norms and with this library's: does a faster norm show in a whole model?

A residual network of images and transformers of tokens, small enough for a laptop, are each built twice with the same
parameters: one copy is converted by `normzoo.torch.convert`. The copies take steps in turn, forward, backward and SGD,
in one process, on as many threads as PyTorch finds; medians of many steps. The norms' own share is what a step loses
where they are left out. Prints one table.

    python asv_benchmarks/end_to_end.py --rounds 30
"""

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import numba
import torch
from peers import describe
from torch import Tensor, nn
from torch.nn import functional as F

import normzoo.torch as nzt

WARM = 3  # steps that are not counted


class Block(nn.Module):
    """Two 3 x 3 convolutions, each with a norm, and a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(outer), norm(outer)])
        self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def residual(norm: Callable[[int], nn.Module]) -> nn.Module:
    """(N, 3, 32, 32) -> (N, 10), 0.7 million parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1, bias=False), norm(32), nn.ReLU(),
        Block(32, 32, 1, norm), Block(32, 64, 2, norm), Block(64, 128, 2, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Layer(nn.Module):
    """Attention and a perceptron, each behind a norm."""

    def __init__(self, width: int, heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([norm(width), norm(width)])
        self.queries, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.queries(self.norms[0](x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def transformer(norm: Callable[[int], nn.Module], width: int = 256, layers: int = 4) -> nn.Module:
    """(N, T) tokens -> (N, T, 1000), 3.7 million parameters."""
    blocks = (Layer(width, 4, norm) for _ in range(layers))
    return nn.Sequential(nn.Embedding(1000, width), *blocks, norm(width), nn.Linear(width, 1000))


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


def tokens() -> tuple[Tensor, Tensor]:
    text = torch.randint(1000, (8, 129))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


MODELS = {
    "residual network, BatchNorm2d": (lambda: residual(nn.BatchNorm2d), images),
    "the same, channels_last": (lambda: residual(nn.BatchNorm2d).to(memory_format=torch.channels_last), images),
    "residual network, GroupNorm": (lambda: residual(lambda c: nn.GroupNorm(8, c)), images),
    "residual network, InstanceNorm2d": (lambda: residual(lambda c: nn.InstanceNorm2d(c, affine=True)), images),
    "transformer, LayerNorm": (lambda: transformer(nn.LayerNorm), tokens),
    "transformer, RMSNorm": (lambda: transformer(nn.RMSNorm), tokens),
}


def without_norms(model: nn.Module) -> nn.Module:
    """A copy whose norms do nothing."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__.endswith(("Norm", "Norm2d")):
                setattr(module, name, nn.Identity())
    return model


def stepper(model: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], float]:
    """step() -> the loss."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(make: Callable[[], nn.Module], data: Callable[[], tuple[Tensor, Tensor]], rounds: int) -> dict[str, float]:
    """Median milliseconds of a step by each, and the largest difference of the losses."""
    torch.manual_seed(0)
    model, (x, labels) = make(), data()
    if model[0].weight.dim() == 4 and model[0].weight.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    models = {"torch": model, "normzoo": nzt.convert(copy.deepcopy(model)), "none": without_norms(model)}
    steps = {name: stepper(m, x, labels) for name, m in models.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    apart = 0.0
    for i in range(WARM + rounds):
        losses = {}
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name] = step()
            if i >= WARM:
                times[name].append(1e3 * (time.perf_counter() - start))
        apart = max(apart, abs(losses["torch"] - losses["normzoo"]))
    return {name: median(found) for name, found in times.items()} | {"apart": apart}


def as_table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| a training step, ms | PyTorch's norms | normzoo's | x PyTorch | norms' own time, x PyTorch | losses differ by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        own = [row[which] - row["none"] for which in ("torch", "normzoo")]
        share = f"{own[0]:.1f} to {own[1]:.1f} ms, {own[0] / own[1]:.2f}" if min(own) > 0 else "-"
        lines.append(
            f"| {name} | {row['torch']:.1f} | {row['normzoo']:.1f} | {row['torch'] / row['normzoo']:.2f} | {share} | "
            f"{row['apart']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="steps of each model")
    parser.add_argument("--models", default="", help="only those whose name contains this")
    options = parser.parse_args()
    chosen = {name: pair for name, pair in MODELS.items() if options.models in name}
    rows = {name: measure(*pair, options.rounds) for name, pair in chosen.items()}
    print(as_table(rows))
    about = describe(["normzoo", "torch"])
    print(
        f"\n`python asv_benchmarks/end_to_end.py --rounds {options.rounds}`: {about['machine']}, "
        f"{about['date']}, commit {about['commit']}, torch {torch.__version__}, numba {numba.__version__}; medians of "
        f"{options.rounds} steps, in turn."
    )


if __name__ == "__main__":
    main()
