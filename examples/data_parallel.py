"""Does a network train the same on one process and on two? Batch normalization over both processes' samples says yes.

Trains a small convolutional network on the 8 x 8 digits of scikit-learn, each rank on its share of every batch: its
batch norms are nz.SyncBatchNorm, gradients are summed over the ranks, and the loss is that of one process to rounding.
With norms of each rank's own (--local) it is another network: the picture shows both.

    pip install -e ".[examples,mpi]"
    python examples/data_parallel.py                 # half a minute; runs 1 and 2 ranks, draws data_parallel.png
    mpiexec -n 2 python examples/data_parallel.py --rank   # what it starts; add --allow-run-as-root as root
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np
from layers import SGD, AvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential, softmax_cross_entropy
from pictures import picture
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import normzoo as nz

BATCH_SIZE, LEARNING_RATE = 64, 0.1


def build_network(comm, local: bool, rng: np.random.Generator) -> Sequential:
    """Two convolutions with batch norms and a linear layer, the same on every rank: (N, 1, 8, 8) -> (N, 10)."""

    def norm(channels):
        return nz.BatchNorm(channels) if local else nz.SyncBatchNorm(channels, comm=comm, timeout=60)

    return Sequential(
        Conv2d(1, 16, 3, rng, bias=False), norm(16), ReLU(), AvgPool2d(2),
        Conv2d(16, 32, 3, rng, bias=False), norm(32), ReLU(), AvgPool2d(2), Flatten(), Linear(128, 10, rng),
    )  # fmt: skip


def sum_gradients(comm, network: Sequential) -> None:
    """Replace every gradient by its sum over the ranks."""
    from mpi4py import MPI  # noqa: PLC0415 (after the options were read)

    for layer in network.layers:
        for name in layer.params:
            grad = np.ascontiguousarray(layer.grads[name])
            comm.Allreduce(MPI.IN_PLACE, grad, MPI.SUM)
            layer.grads[name] = grad


def train(comm, epochs: int, local: bool) -> tuple[list[float], str]:
    """The loss of every step, over all ranks, and the bits of the running statistics at the end."""
    digits = load_digits()
    x = digits.images[:, np.newaxis].astype(np.float32)
    x, labels = (x - x.mean()) / x.std(), digits.target
    network = build_network(comm, local, np.random.default_rng(0))
    optimizer, order, losses = SGD(network, LEARNING_RATE, momentum=0.9), np.random.default_rng(1), []
    for _ in range(epochs):
        shuffled = order.permutation(len(x))
        for start in range(0, len(x), BATCH_SIZE):  # the last batch has 5 samples: one rank gets 3 of them
            batch = shuffled[start : start + BATCH_SIZE]
            mine = np.array_split(batch, comm.size)[comm.rank]
            loss, dlogits = softmax_cross_entropy(network(x[mine]), labels[mine])
            share = len(mine) / len(batch)  # a mean over the rank's samples becomes its part of one over the batch
            network.backward(dlogits * np.float32(share))
            sum_gradients(comm, network)
            optimizer.step()
            losses.append(comm.allreduce(loss * share))
    state = b"".join(a.tobytes() for layer in network.layers for a in getattr(layer, "buffers", {}).values())
    return losses, state.hex()


def run_rank(epochs: int, local: bool) -> None:
    """One of the ranks; rank 0 prints the losses, and how many different running statistics there are."""
    from mpi4py import MPI  # noqa: PLC0415 (the parent process needs none)

    comm = MPI.COMM_WORLD
    numba.set_num_threads(1)
    with threadpool_limits(1):
        losses, state = train(comm, epochs, local)
    states = len(set(comm.allgather(state)))
    if comm.rank == 0:
        print(json.dumps({"losses": losses, "states": states}))


def run_ranks(ranks: int, epochs: int, local: bool) -> dict:
    """What rank 0 of so many prints."""
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit('data_parallel: expected mpiexec; write pip install -e ".[examples,mpi]"')
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    flags = ["--allow-run-as-root", "--oversubscribe"] if "Open" in version else []
    command = [mpiexec, "-n", str(ranks), *flags, sys.executable, __file__, "--rank", "--epochs", str(epochs)]
    done = subprocess.run([*command, *(["--local"] if local else [])], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().split("\n")[-1])


def draw(runs: dict[str, list[float]], path: Path) -> None:
    """The losses above; below, how far they are from those of one rank."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (ranks need none of it)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure((9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, 1))
    styles = {
        "1 rank": ("k", "-", 3),
        "2 ranks, SyncBatchNorm": ("tab:orange", "--", 1.6),
        "2 ranks, BatchNorm": ("tab:red", "-", 1),
    }
    first = np.array(runs["1 rank"])
    for name, losses in runs.items():
        colour, line, width = styles[name]
        above.plot(losses, line, color=colour, lw=width, label=name)
        if name != "1 rank":
            below.plot(np.maximum(np.abs(losses - first) / first, 1e-9), line, color=colour, lw=width, label=name)
    above.set(yscale="log", ylabel="training loss of the step", title="Digits, one process and two")
    below.set(yscale="log", ylabel="distance from 1 rank, relative", xlabel="step")
    above.legend()
    figure.savefig(path, format="png", dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3, help="passes over the images")
    parser.add_argument("--out", type=picture, default="data_parallel.png", help="the picture")
    parser.add_argument("--local", action="store_true", help="each rank's norms see its own samples only")
    parser.add_argument("--rank", action="store_true", help="be a rank of mpiexec")
    options = parser.parse_args(argv)
    if options.rank:
        run_rank(options.epochs, options.local)
        return
    one, two = (run_ranks(n, options.epochs, False) for n in (1, 2))
    apart = run_ranks(2, options.epochs, True)
    losses = {"1 rank": one, "2 ranks, SyncBatchNorm": two, "2 ranks, BatchNorm": apart}
    draw({name: run["losses"] for name, run in losses.items()}, options.out)
    first, second, third = (np.array(run["losses"]) for run in (one, two, apart))
    epoch = len(first) // options.epochs
    gap, other = (float((np.abs(found - first) / first)[:epoch].max()) for found in (second, third))
    print(f"loss of the last step: {first[-1]:.4f} on 1 rank, {second[-1]:.4f} on 2, {third[-1]:.4f} with norms apart")
    print(f"furthest apart in the first epoch: {gap:.1e} of the loss with SyncBatchNorm, {other:.1e} with BatchNorm")
    print(f"running statistics of the 2 ranks: {'the same bits' if two['states'] == 1 else 'different'}")
    print(
        "confirmed: the same loss curve" if gap < 1e-4 < other and two["states"] == 1 else "refuted: the curves differ"
    )


if __name__ == "__main__":
    main()
