"""Images of whole numbers: values of the formulas and of other libraries, layouts, statistics, masks and errors."""

import numba
import numpy as np
import pytest

import normzoo as nz
from normzoo.backends.cpu import outside
from normzoo.passes.whole import now
from tests import check

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
AXES = {"image": (1, 2, 3), "image_channel": (1, 2), "channel": (0, 1, 2), "all": (0, 1, 2, 3)}


def draw(rng, shape, dtype=np.uint8):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def ulps(y, exact):
    """Distance in units of the last place of the exact value, rounded to float32."""
    return float(np.abs((y - exact) / np.spacing(np.abs(exact.astype(np.float32)))).max())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 64, 65, 4), (3, 9, 11, 1), (2, 3, 5, 17)], ids=str)
def test_given_statistics_are_exact_to_one_unit_in_the_last_place(shape, dtype, backend, rng):
    x, c = draw(rng, shape, dtype), shape[-1]
    mean, std = rng.uniform(-0.2, 0.8, c), rng.uniform(0.01, 2, c)
    exact = (x.astype(np.float64) - mean * 300) / (std * 300)
    with nz.use(backend):
        y = nz.normalize_image(x, mean, std, max_value=300)
        planes = nz.normalize_image(x, mean, std, max_value=300, out_channel_axis=1)
        first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        kept = nz.normalize_image(first, mean, std, max_value=300, channel_axis=1)
        back = nz.normalize_image(first, mean, std, max_value=300, channel_axis=-3, out_channel_axis=-1)
    assert y.dtype == np.float32 and ulps(y, exact) <= 1
    for other in (np.moveaxis(planes, 1, -1), np.moveaxis(kept, 1, -1), back):
        check.same_bits(np.ascontiguousarray(other), y)
    assert all(a.flags.c_contiguous for a in (y, planes, kept, back))


def test_a_mean_at_a_value_loses_no_digits(rng):
    """x - mean cancels there: what is left is the mean's own fraction."""
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for mean in (124.0, 123.99999, 123.675, 0.5, 254.9):
        exact = (x.astype(np.float64) - mean) / 57.3
        assert ulps(nz.normalize_image(x, mean, 57.3, max_value=1), exact) <= 1


@pytest.mark.parametrize("scale", ["std", "min_max"])
@pytest.mark.parametrize("per", list(AXES))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_own_statistics_are_those_of_numpy(dtype, per, scale, rng):
    x = draw(rng, (3, 37, 41, 3), dtype)
    v, axes = x.astype(np.float64), AXES[per]
    least, most = v.min(axes, keepdims=True), v.max(axes, keepdims=True)
    mean, std = v.mean(axes, keepdims=True), v.std(axes, keepdims=True)
    exact = (v - mean) / (std + 1e-4) if scale == "std" else (v - least) / (most - least + 1e-4)
    for backend in ("cpu", "reference"):
        with nz.use(backend):
            check.close(nz.normalize_image(x, per=per, scale=scale), exact, 1e-6, 1.0)
            first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
            y = nz.normalize_image(first, per=per, scale=scale, channel_axis=1, out_channel_axis=-1)
            check.close(y, exact, 1e-6, 1.0)


def test_statistics_of_a_far_mean_lose_no_digits():
    x = np.full((1, 300, 300, 1), 65000, np.uint16)
    x[0, ::2] = 65001
    check.close(nz.normalize_image(x, eps=0.0), np.where(x == 65001, 1.0, -1.0), 1e-7, 1.0)
    flat = np.full((2, 8, 8, 3), 9, np.uint8)
    assert not nz.normalize_image(flat, eps=0.0).any() and not nz.normalize_image(flat, scale="min_max", eps=0.0).any()


def test_clip_limit_and_percentiles(rng):
    x = draw(rng, (1, 40, 50, 3), np.uint16)
    v = np.clip(x.astype(np.float64), 1000, 50000.5)
    check.close(nz.normalize_image(x, clip=(1000, 50000.5)), (v - v.mean()) / (v.std() + 1e-4), 1e-6, 1.0)
    v = np.clip(x.astype(np.float64), *np.percentile(x, (3, 97.5)))
    check.close(nz.normalize_image(x, percentiles=(3, 97.5)), (v - v.mean()) / (v.std() + 1e-4), 1e-6, 1.0)
    v = np.clip((x / 65535.0 - 0.5) / 0.1, -2, 2)
    check.close(nz.normalize_image(x, 0.5, 0.1, limit=2), v, 1e-6, 1.0)


def test_values_that_a_mask_leaves_out_have_no_part(rng):
    x = draw(rng, (2, 20, 30, 3))
    mask = rng.random((2, 20, 30)) < 0.4
    other = np.where(mask[..., None], x, 255 - x)
    y = nz.normalize_image(x, mask=mask, per="image_channel")
    check.same_bits(nz.normalize_image(other, mask=mask, per="image_channel"), y)
    assert not y[~mask].any()
    v = x[0][mask[0]].astype(np.float64)
    check.close(y[0][mask[0]], (v - v.mean(0)) / (v.std(0) + 1e-4), 1e-6, 1.0)
    planes = nz.normalize_image(x, mask=mask, per="image_channel", out_channel_axis=1)
    check.same_bits(np.ascontiguousarray(np.moveaxis(planes, 1, -1)), y)
    nothing = nz.normalize_image(x, mask=np.zeros_like(mask))
    assert not nothing.any()


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_sixteen_bits_are_those_of_float32_rounded(dtype, unit, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x = draw(rng, (2, 33, 21, 3))
    for axis in (-1, 1):
        y = nz.normalize_image(x, "imagenet", out_channel_axis=axis)
        check.same_bits(nz.normalize_image(x, "imagenet", out_channel_axis=axis, dtype=kind), y.astype(kind))


def test_places_and_threads_change_no_bit(rng):
    x = draw(rng, (4, 129, 131, 3))
    y = nz.normalize_image(x, "imagenet")
    turned = x[..., ::-1]  # blue, green, red
    check.same_bits(nz.normalize_image(turned, MEAN, STD), nz.normalize_image(turned.copy(), "imagenet"))
    check.same_bits(nz.normalize_image(x[:, ::2, 3:], "imagenet"), np.ascontiguousarray(y[:, ::2, 3:]))
    check.same_bits(nz.normalize_image(x[1], "imagenet"), y[1])
    seen = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1)  # planes, which are called channels last
    check.same_bits(nz.normalize_image(seen, "imagenet"), y)
    out = np.full(y.shape, np.nan, np.float32)
    assert nz.normalize_image(x, "imagenet", out=out) is out
    check.same_bits(out, y)
    wide = np.full((4, 129, 131, 6), np.nan, np.float32)
    nz.normalize_image(x, "imagenet", out=wide[..., ::2])
    check.same_bits(np.ascontiguousarray(wide[..., ::2]), y)
    assert np.isnan(wide[..., 1::2]).all()
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = nz.normalize_image(x, per="image")
    finally:
        numba.set_num_threads(before)
    check.same_bits(nz.normalize_image(x, per="image"), alone)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("per", ["image", "image_channel"])
@pytest.mark.parametrize("shape", [(5, 33, 130, 3), (4, 9, 11, 1), (6, 8, 9, 17)], ids=str)
def test_images_in_one_go_have_the_bits_of_two(shape, dtype, per, rng, monkeypatch):
    x = draw(rng, shape, dtype)
    x[1] = 7  # no deviation, no range
    x[2] //= 100
    planes = np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def results():
        for scale in ("std", "min_max"):
            for eps in (1e-4, 0.0):
                yield nz.normalize_image(x, per=per, scale=scale, eps=eps, limit=3)
                yield nz.normalize_image(x, per=per, scale=scale, eps=eps, clip=(3, 90), dtype=np.float16)
                yield nz.normalize_image(planes, per=per, scale=scale, eps=eps, channel_axis=1)

    calls, cpu = [], type(now())
    whole = cpu.pixels_of_own
    monkeypatch.setattr(cpu, "pixels_of_own", lambda *given: calls.append(given) or whole(*given))
    monkeypatch.setattr(outside, "OWN_IMAGES", 0)
    outside.pixels_of_own.cache_clear()
    at_once = list(results())
    outside.pixels_of_own.cache_clear()
    assert len(calls) == len(at_once)
    monkeypatch.setattr(cpu, "pixels_of_own", lambda *_: None)
    for found, expected in zip(at_once, results(), strict=True):
        check.same_bits(found, expected)


def test_files_of_either_byte_order_and_axis_order(rng):
    x = draw(rng, (11, 12, 13), np.int16)
    y = nz.normalize_image(x, channel_axis=None)
    check.same_bits(nz.normalize_image(x.astype(">i2"), channel_axis=None), y)
    check.same_bits(nz.normalize_image(x.astype("<i2"), channel_axis=None), y)
    check.same_bits(nz.normalize_image(np.asfortranarray(x), channel_axis=None), y)
    read_only = x.copy()
    read_only.flags.writeable = False
    check.same_bits(nz.normalize_image(read_only, channel_axis=None), y)


def test_other_ranks_and_no_values(rng):
    gray = draw(rng, (13, 17))
    v = gray.astype(np.float64)
    check.close(nz.normalize_image(gray), (v - v.mean()) / (v.std() + 1e-4), 1e-6, 1.0)
    volume = draw(rng, (5, 6, 7), np.int16)
    v = volume.astype(np.float64)
    check.close(nz.normalize_image(volume, channel_axis=None), (v - v.mean()) / (v.std() + 1e-4), 1e-6, 1.0)
    assert nz.normalize_image(np.empty((0, 4, 4, 3), np.uint8)).shape == (0, 4, 4, 3)
    assert nz.normalize_image(np.empty((2, 0, 4, 3), np.uint8), "imagenet", out_channel_axis=1).shape == (2, 3, 0, 4)


IMAGE = np.zeros((2, 4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        ([IMAGE.astype(np.float32)], {}, TypeError, "uint8, uint16 or int16, got float32; floats are what layers take"),
        ([IMAGE.astype(np.int64)], {}, TypeError, r"got int64; write x.astype\(np.uint16\)"),
        ([IMAGE.tolist()], {}, TypeError, "NumPy array, got list; write np.asarray"),
        ([np.ma.masked_array(IMAGE, IMAGE == 0)], {}, TypeError, "mask=~np.ma.getmaskarray"),
        ([np.zeros(4, np.uint8)], {}, ValueError, r"got \(4,\); write channel_axis=None"),
        ([IMAGE, "imagenets"], {}, ValueError, "imagenet, clip, half, got 'imagenets'"),
        ([IMAGE[..., :2], "imagenet"], {}, ValueError, r"mean to be a number or 2, one for each channel, got \(3,\)"),
        ([IMAGE, 0.5], {}, ValueError, "mean and std together, got mean alone"),
        ([IMAGE, "imagenet", 1.0], {}, ValueError, "no std beside mean='imagenet'"),
        ([IMAGE, 0.5, 0.0], {}, ValueError, "finite std > 0, got 0.0"),
        ([IMAGE, 0.5, [1.0, -1.0, 1.0]], {}, ValueError, "finite std > 0"),
        ([IMAGE, ["a"], 1.0], {}, TypeError, "mean of numbers"),
        ([IMAGE], {"per": "pixel"}, ValueError, "per to be one of 'image', 'channel', .* got 'pixel'"),
        ([IMAGE], {"scale": "max"}, ValueError, "scale to be one of 'std', 'min_max', got 'max'"),
        ([IMAGE], {"channel_axis": 2}, ValueError, "channel_axis 1 or -1 for x of rank 4, got 2"),
        ([IMAGE[0]], {"channel_axis": 1}, ValueError, "channel_axis 0 or -1 for x of rank 3, one image, got 1"),
        ([IMAGE], {"out_channel_axis": 7}, ValueError, "out_channel_axis in"),
        ([IMAGE], {"clip": (5, 1)}, ValueError, "low < high"),
        ([IMAGE], {"clip": 5}, TypeError, r"clip of two numbers, got 5; write clip=\(low, high\)"),
        ([IMAGE], {"percentiles": (0, 101)}, ValueError, "percentiles"),
        ([IMAGE], {"limit": -1.0}, ValueError, "limit >= 0"),
        ([IMAGE], {"eps": np.inf}, ValueError, "eps >= 0 and finite"),
        ([IMAGE], {"max_value": 0, "mean": 0.5, "std": 0.5}, ValueError, "max_value > 0"),
        ([IMAGE], {"dtype": np.float64}, TypeError, "dtype float32, float16 or bfloat16"),
        ([IMAGE], {"dtype": "no"}, TypeError, "dtype float32, float16 or bfloat16, got 'no'"),
        ([IMAGE], {"mask": np.ones((2, 4, 5))}, TypeError, "mask of booleans, got float64"),
        ([IMAGE], {"mask": np.ones((4, 5), bool)}, ValueError, r"mask of shape \(2, 4, 5, 3\) or \(2, 4, 5\), got \(4, 5\)"),
        ([IMAGE], {"mask": "zero"}, ValueError, "'nonzero', got 'zero'"),
        ([IMAGE], {"out": np.empty((2, 4, 5, 3))}, TypeError, "out of dtype float32"),
        ([IMAGE], {"out": np.empty((2, 3, 4, 5), np.float32)}, ValueError, "out of shape"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(arguments, options, error, said):
    with pytest.raises(error, match=f"normalize_image: .*{said}"):
        nz.normalize_image(*arguments, **options)


# -- recipes for medical files, which the tests write


def test_a_recipe_for_volumes_of_nibabel(rng, tmp_path):
    """nnU-Net: clip CT at percentiles of the foreground, then its mean and deviation; MONAI's nonzero; z-score in a mask."""
    nibabel = pytest.importorskip("nibabel")
    stored = rng.normal(40, 300, (11, 12, 13)).clip(-1024, 3000).astype(np.int16)
    stored[:3] = 0
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "ct.nii.gz")
    volume = np.asarray(nibabel.load(tmp_path / "ct.nii.gz").dataobj)
    assert volume.dtype == np.int16
    foreground = volume > 100

    low, high = np.percentile(volume[foreground], (0.5, 99.5))
    mean, std = volume[foreground].mean(), volume[foreground].std()
    ct = nz.normalize_image(volume, mean, std, clip=(low, high), channel_axis=None)
    check.close(ct, (np.clip(volume, low, high) - mean) / std, 1e-6, 1.0)

    z = nz.normalize_image(volume, mask=foreground, eps=0.0, channel_axis=None)
    expected = np.zeros(volume.shape)
    expected[foreground] = (volume[foreground] - mean) / std
    check.close(z, expected, 1e-6, 1.0)

    monai = nz.normalize_image(volume, mask="nonzero", eps=0.0, channel_axis=None)
    there = volume != 0
    expected = np.zeros(volume.shape)
    expected[there] = (volume[there] - volume[there].mean()) / volume[there].std()
    check.close(monai, expected, 1e-6, 1.0)

    within = nz.normalize_image(volume, mask=foreground, percentiles=(0.5, 99.5), eps=0.0, channel_axis=None)
    v = np.clip(volume[foreground], low, high)
    check.close(within[foreground], (v - v.mean()) / v.std(), 1e-6, 1.0)


def test_a_recipe_for_slices_of_pydicom(rng, tmp_path):
    """The window of a slice, in stored numbers: Hounsfield units are those times slope plus intercept."""
    pydicom = pytest.importorskip("pydicom")
    dataset, uid = pytest.importorskip("pydicom.dataset"), pytest.importorskip("pydicom.uid")
    stored = rng.integers(0, 4096, (32, 24), np.uint16)
    made = pydicom.Dataset()
    made.file_meta = dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = uid.generate_uid()
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 32, 24, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept, made.WindowCenter, made.WindowWidth = 1, -1024, 40, 400
    made.PixelData = stored.tobytes()
    made.save_as(tmp_path / "slice.dcm", enforce_file_format=True)

    read = pydicom.dcmread(tmp_path / "slice.dcm")
    pixels, slope, intercept = read.pixel_array, float(read.RescaleSlope), float(read.RescaleIntercept)
    assert pixels.dtype == np.uint16
    low, high = (float(read.WindowCenter) + side * float(read.WindowWidth) / 2 for side in (-1, 1))
    bounds = (low - intercept) / slope, (high - intercept) / slope
    y = nz.normalize_image(pixels, bounds[0], bounds[1] - bounds[0], max_value=1, clip=bounds)
    hounsfield = pixels * slope + intercept
    check.close(y, (np.clip(hounsfield, low, high) - low) / (high - low), 1e-6, 1.0)
