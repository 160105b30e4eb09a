"""Scans of several scanners, each with intensities of its own: what do 3-D norms make of them?

The scans are test data in the wheels of nibabel and pydicom: magnetic resonance of three formats (one int16 stored
big-endian), a computed tomography and two DICOM slices. First they are brought to one scale by nz.InstanceNorm, with
a mask that leaves out the background, and after an offset of a million deviations was added. Then a small 3-D network
learns to mark the bright structures (the fifth of the voxels that are brightest after smoothing) in volumes of
simulated scanners (gain and offset at random) and marks them in other volumes of other scanners: with instance, group,
batch norm and none, in batches of 1 and 2.

    python examples/medical_volume.py            # about a minute; draws medical_volume.png
    python examples/medical_volume.py --quick    # seconds; --full: more runs
"""

import warnings
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from common import new_figure, options, run_all, save, verdict
from layers import Adam, Conv3d, ReLU, Sequential, sigmoid_cross_entropy, soft_dice
from pydicom.data import get_testdata_file
from scipy.ndimage import gaussian_filter

import normzoo as nz

FOLDER = Path(nibabel.__file__).parent / "tests" / "data"
NORMS = {
    "none": (None, "tab:red"),
    "batch norm": (nz.BatchNorm, "tab:orange"),
    "group norm": (lambda channels: nz.GroupNorm(min(4, channels), channels), "tab:green"),
    "instance norm": (lambda channels: nz.InstanceNorm(channels, affine=True), "tab:blue"),
}
PATCH = (16, 16, 8)


def volume(name: str, frame: int = 0) -> np.ndarray:
    """One volume (X, Y, Z) of a file of nibabel's test data, in its own type and byte order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nibabel leaves the .REC open until it is collected
        a = np.asanyarray(nibabel.load(FOLDER / name).dataobj)
    return a[..., frame] if a.ndim == 4 else a


def dicom(name: str) -> np.ndarray:
    """The pixels of a file of pydicom's test data as a volume (X, Y, 1)."""
    return pydicom.dcmread(get_testdata_file(name, download=False)).pixel_array.T[..., np.newaxis]


def load_scans() -> dict[str, np.ndarray]:
    """Real scans with the intensities that their files hold."""
    return {
        "MR, NIfTI,\nbig-endian int16": volume("anatomical.nii"),
        "MR, NIfTI, int16": volume("example4d.nii.gz"),
        "MR, NIfTI-2, int16": volume("example_nifti2.nii.gz"),
        "phantom, PAR/REC": volume("phantom_EPI_asc_CLEAR_2_1.PAR"),
        "CT, DICOM": dicom("CT_small.dcm"),
        "MR, DICOM,\nbig-endian": dicom("MR_small_bigendian.dcm"),
    }


def harmonize(scan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is brighter than the mean gets mean 0 and variance 1, the rest goes along; and the mask of the first."""
    x = scan.astype(np.float32)  # norms take floats, of any byte order
    body = x > x.mean()
    y = nz.InstanceNorm(1)(x[np.newaxis, np.newaxis], mask=body[np.newaxis, np.newaxis], masked="normalize")
    return y[0, 0], body


def overlap(scans: Sequence[np.ndarray], bins: int = 40) -> float:
    """Of the histograms of two scans the area that they share, 0 to 1: the mean over all pairs."""
    low, high = np.percentile(np.concatenate([scan.ravel() for scan in scans]), (0.5, 99.5))
    shares = [np.histogram(np.clip(s, low, high), bins, (low, high))[0] / s.size for s in scans]
    return float(np.mean([np.minimum(a, b).sum() for a, b in combinations(shares, 2)]))


def overlaps(scans: dict[str, np.ndarray]) -> tuple[float, float]:
    """Of the bright parts, as stored and harmonized."""
    found = [(scan, *harmonize(scan)) for scan in scans.values()]
    return overlap([scan[body] for scan, _, body in found]), overlap([y[body] for _, y, body in found])


def errors(scan: np.ndarray) -> tuple[float, float]:
    """Of a scan in float32 with an offset of a million deviations: errors of the norm and of E[x^2] - E[x]^2."""
    x = ((scan - scan.mean()) / scan.std() + 1e6).astype(np.float32)
    exact = (x - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    with np.errstate(all="ignore"):
        naive = (x - x.mean()) / np.sqrt((x**2).mean() - x.mean() ** 2)
    found = nz.InstanceNorm(1, eps=0)(x[np.newaxis, np.newaxis])[0, 0]
    return tuple(float(np.abs(a - exact).max()) for a in (found, np.nan_to_num(naive, nan=np.inf)))


def load_pairs(frame: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Volumes of deviation 1 and their bright structures; frame 0 to train on, 1 to test on (other recordings)."""
    whole = [
        volume("example4d.nii.gz", frame)[::2, ::2],
        volume("example_nifti2.nii.gz", frame),
        volume("phantom_EPI_asc_CLEAR_2_1.PAR", frame)[::2, ::2],
        volume("anatomical.nii") if frame == 0 else volume("reoriented_anat_moved.nii"),
    ]
    pairs = []
    for scan in whole:
        x = np.asarray(scan, np.float32)
        smooth = gaussian_filter(x, 1)
        pairs.append(((x - x.mean()) / x.std(), smooth > np.percentile(smooth, 80)))
    return pairs


def sample(pairs: list, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patches (N, 1, X, Y, Z) of volumes as different scanners would give them, and their masks."""
    xs, masks = [], []
    while len(xs) < size:
        x, mask = pairs[rng.integers(len(pairs))]
        corner = [rng.integers(0, full - side + 1) for full, side in zip(x.shape, PATCH, strict=True)]
        part = tuple(slice(start, start + side) for start, side in zip(corner, PATCH, strict=True))
        if 0.02 < mask[part].mean() < 0.8:  # there is something to find
            gain, offset = np.exp(rng.uniform(-1.5, 1.5)), rng.uniform(-5, 5)
            xs.append(np.float32(gain) * (x[part] + np.float32(offset)))
            masks.append(mask[part].astype(np.float32))
    return np.stack(xs)[:, np.newaxis], np.stack(masks)[:, np.newaxis]


def build(norm: str, rng: np.random.Generator) -> Sequential:
    """Three convolutions of 3 x 3 x 3 and one of 1: (N, 1, X, Y, Z) -> logits of the same shape."""

    def one(channels):
        make = NORMS[norm][0]
        return [make(channels)] if make else []

    layers = one(1)
    for inside, outside in ((1, 8), (8, 8), (8, 8)):
        layers += [Conv3d(inside, outside, 3, rng), *one(outside), ReLU()]
    return Sequential(*layers, Conv3d(8, 1, 1, rng))


def train(norm: str, batch_size: int, seed: int, samples: int) -> float:
    """The mean Dice overlap of the marked voxels with the bright ones in volumes that were not trained on."""
    rng = np.random.default_rng(seed)
    network, pairs = build(norm, rng), load_pairs(0)
    optimizer = Adam(network, 0.01)
    for _ in range(samples // batch_size):
        x, mask = sample(pairs, batch_size, rng)
        logits = network(x)
        network.backward(soft_dice(logits, mask)[1] + sigmoid_cross_entropy(logits, mask)[1])
        optimizer.step()
    x, mask = sample(load_pairs(1), 48, np.random.default_rng(1000))
    marked, axes = network.eval()(x) > 0, (1, 2, 3, 4)
    return float(np.mean(2 * (marked * mask).sum(axes) / (marked.sum(axes) + mask.sum(axes))))


def findings(scans: dict, dice: dict[tuple[str, int], np.ndarray]) -> list[str]:
    """A line for harmonization and one for the network; medians over seeds."""
    before, after = overlaps(scans)
    ours, naive = map(max, zip(*(errors(scan) for scan in scans.values()), strict=True))
    first = (
        f"instance norm brings scans to one scale: histograms of two, without background, share {before:.0%} "
        f"before, {after:.0%} after; with an offset of 1e6 deviations the error is {ours:.0e} in float32, by "
        f"E[x^2] - E[x]^2 {naive:.0e}"
    )
    median = {key: np.median(found) for key, found in dice.items()}
    sizes = sorted({size for _, size in dice})
    listed = "; ".join(f"{norm} " + " and ".join(f"{median[norm, n]:.2f}" for n in sizes) for norm in reversed(NORMS))
    second = f"norms of a sample cope with unseen scanners: dice in batches of 1 and 2: {listed}"
    worst = min(median[norm, size] for norm in ("instance norm", "group norm") for size in sizes)
    return [
        verdict(after > before and ours < 1e-5, first),
        verdict(worst > max(median[norm, size] for norm in ("batch norm", "none") for size in sizes), second),
    ]


def draw(scans: dict, dice: dict[tuple[str, int], np.ndarray], path: Path) -> None:
    """Slices as they are and harmonized, all in one window of grey; histograms; dice."""
    figure = new_figure(13, 9, "Scans of several scanners: instance norm brings them to one scale")
    rows = figure.subfigures(3, 1, height_ratios=(1, 0.85, 1.25))
    harmonized = {name: harmonize(scan)[0] for name, scan in scans.items()}
    bodies = {name: harmonize(scan)[1] for name, scan in scans.items()}
    for row, shown, what in ((rows[0], scans, "as stored"), (rows[1], harmonized, "instance norm")):
        low, high = np.percentile(np.concatenate([scan.ravel() for scan in shown.values()]), (1, 99))
        for axes, (name, scan) in zip(row.subplots(1, len(shown)), shown.items(), strict=True):
            x = scan[..., scan.shape[-1] // 2].T.astype(float)
            axes.imshow(x, cmap="gray", vmin=low, vmax=high, origin="upper")
            axes.set_axis_off()
            axes.set_title(name if shown is scans else "", fontsize=9)
        row.suptitle(f"{what}: one grey scale for all, {low:.3g} to {high:.3g}", fontsize=10)
    left, middle, right = rows[2].subplots(1, 3)
    for axes, shown, title, share in zip(
        (left, middle), (scans, harmonized), ("as stored", "instance norm"), overlaps(scans), strict=True
    ):
        parts = {name: scan[bodies[name]] for name, scan in shown.items()}
        low, high = np.percentile(np.concatenate(list(parts.values())), (0.5, 99.5))
        for name, part in parts.items():
            height, edges = np.histogram(np.clip(part, low, high), 40, (low, high))
            axes.stairs(height / part.size, edges, label=name.replace("\n", " "), lw=1.4)
        axes.set(xlabel="intensity", ylabel="share of voxels", yscale="log", ylim=(1e-4, 20))
        axes.set_title(f"{title}, without background: {share:.0%} shared", fontsize=11)
    left.legend(fontsize=7, loc="upper right", bbox_to_anchor=(0.98, 1))
    sizes = sorted({size for _, size in dice})
    for i, (norm, (_, colour)) in enumerate(NORMS.items()):
        for j, size in enumerate(sizes):
            found, place = dice[norm, size], i + 0.4 * j - 0.2
            right.bar(place, np.median(found), 0.38, color=colour, alpha=0.45 if size == 1 else 0.85)
            right.plot([place] * len(found), found, "o", color="k", mfc="none", ms=4)
            right.annotate(str(size), (place, 0.02), ha="center", color="w", fontweight="bold")
    right.set_xticks(range(len(NORMS)), [norm.replace(" ", "\n") for norm in NORMS])
    right.set(ylim=(0, 1), ylabel="Dice score", xlabel="1, 2: samples in a batch")
    right.set_title("structures found in other volumes: medians, runs", fontsize=10)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    seeds, samples = (3, 60) if given.quick else (10 if given.full else 3, 300)
    keys = list(product(NORMS, (1, 2)))
    jobs = [(train, norm, size, seed, samples) for (norm, size), seed in product(keys, range(seeds))]
    dice = dict(zip(keys, np.array(run_all(jobs, "networks")).reshape(len(keys), seeds), strict=True))
    scans = load_scans()
    draw(scans, dice, given.out)
    print("\n".join(findings(scans, dice)))


if __name__ == "__main__":
    main()
