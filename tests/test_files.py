"""State files: what is written is read, by others too; nothing is half written, half read, or run."""

import importlib.util
import io
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import filled

SUFFIXES = [
    ".npz",
    pytest.param(".safetensors", marks=pytest.mark.skipif(not importlib.util.find_spec("safetensors"), reason="safetensors is not installed")),
]  # fmt: skip


def two(rng):
    norms = {"stem.bn": filled(nz.BatchNorm(3), rng), "head": filled(nz.RMSNorm(4, dtype=np.float64), rng)}
    norms["stem.bn"](rng.standard_normal((5, 3)))
    return norms


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_is_written_is_read(suffix, dtype, tmp_path, rng):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    path, norm = tmp_path / f"state{suffix}", filled(nz.BatchNorm(3, dtype=dtype), rng)
    norm(rng.standard_normal((5, 3)))
    nz.save(path, norm)
    other = nz.BatchNorm(3, dtype=dtype)
    read = nz.load(path, into=other)
    for name, a in norm.state_dict().items():
        check.same_bits(other.state_dict()[name], a)
        check.same_bits(read[name], a)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_norms_out_of_the_file_of_a_whole_model(suffix, tmp_path, rng):
    path, norms = tmp_path / f"model{suffix}", two(rng)
    nz.save(path, {**norms, "other": nz.LayerNorm(7)})
    again = {"stem.bn": nz.BatchNorm(3), "head": nz.RMSNorm(4, dtype=np.float64)}
    read = nz.load(path, again)
    assert not any(name.startswith("other") for name in read) and "head.weight" in read
    for name, norm in norms.items():
        for key, a in norm.state_dict().items():
            check.same_bits(again[name].state_dict()[key], a)
    assert "other.weight" in nz.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dialects_in_files(suffix, tmp_path, rng):
    path, norms = tmp_path / f"keras{suffix}", two(rng)
    nz.save(path, {"bn": norms["stem.bn"]}, dialect="keras", values=5)
    assert sorted(nz.load(path)) == ["bn.beta", "bn.gamma", "bn.moving_mean", "bn.moving_variance"]
    other = nz.BatchNorm(3)
    nz.load(path, {"bn": other}, dialect="keras")
    check.close(other.running_var, norms["stem.bn"].state_dict("keras", values=5)["moving_variance"], 1e-7)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_loading_is_all_or_nothing(suffix, tmp_path, rng):
    path, norms = tmp_path / f"state{suffix}", two(rng)
    nz.save(path, norms)
    first, before = nz.BatchNorm(3), nz.BatchNorm(3).state_dict()
    for last in (nz.RMSNorm(5), nz.LayerNorm(4)):
        with pytest.raises(ValueError, match=rf"load: state\{suffix}: head: .*expected"):
            nz.load(path, {"stem.bn": first, "head": last})
        for name, a in first.state_dict().items():
            check.same_bits(a, before[name])
    with pytest.raises(ValueError, match="the norm: .*expected state with"):
        nz.load(path, first)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_the_old_file(suffix, tmp_path, rng, monkeypatch):
    path = tmp_path / f"state{suffix}"
    nz.save(path, nz.LayerNorm(3))
    held = path.read_bytes()
    with pytest.raises(ValueError, match="expected a norm that keras has"):
        nz.save(path, {"a": nz.LayerNorm(3), "b": nz.DyT(3)}, dialect="keras")

    def full(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    if suffix == ".safetensors":
        import safetensors.numpy  # noqa: PLC0415

        monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        nz.save(path, nz.LayerNorm(3))
    assert path.read_bytes() == held and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_in_a_file_is_run(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, weight=np.array([print], object))
    with pytest.raises(ValueError, match="Python objects in 'weight.npy'"):
        nz.load(path)
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(ValueError, match="bad.npz: expected an npz file of plain arrays"):
        nz.load(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"bad.npz: expected an npz file, got a single array"):
        nz.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_broken_safetensors_file(suffix, tmp_path):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"\x00" * 64)
    with pytest.raises(ValueError, match="expected a safetensors file"):
        nz.load(path)
    with pytest.raises(FileNotFoundError):
        nz.load(tmp_path / "none.safetensors")


def test_torch_reads_safetensors(tmp_path, rng):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    norm, theirs, path = filled(nz.BatchNorm(3), rng), torch.nn.BatchNorm1d(3), tmp_path / "bn.safetensors"
    norm(rng.standard_normal((5, 3)))
    nz.save(path, norm)
    theirs.load_state_dict(files.load_file(path))
    x = rng.standard_normal((4, 3)).astype(np.float32)
    check.close(norm.eval()(x), theirs.eval()(torch.from_numpy(x)).detach().numpy(), 1e-6)
    files.save_file(theirs.state_dict(), path)
    nz.load(path, into=norm)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_begin_alike_and_the_empty_name(suffix, tmp_path, rng):
    """Each name has its own arrays: a block and the norm in it, a norm and the layer in it."""
    path = tmp_path / f"names{suffix}"
    norms = {name: filled(nz.BatchNorm(3), rng) for name in ("", "block", "block.norm", "block.norm.norm", "b", "norm")}
    norms["block"] = filled(nz.LayerNorm(3), rng)
    nz.save(path, norms)
    again = {name: type(norm)(3) for name, norm in norms.items()}
    for some in (again, {"block": nz.LayerNorm(3)}, {"block.norm": nz.BatchNorm(3)}, {"": nz.BatchNorm(3)}):
        read = nz.load(path, into=some)
        assert len(read) == sum(len(norm.state_dict()) for norm in some.values())
        for name, norm in some.items():
            for key, a in norms[name].state_dict().items():
                check.same_bits(norm.state_dict()[key], a)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_model_has_inside_a_layer_of_the_same_name_is_passed_over(suffix, tmp_path, rng):
    """AdaLayerNormZero of diffusers: norm1.weight is the norm's, norm1.linear.weight not."""
    path, norm = tmp_path / f"model{suffix}", filled(nz.LayerNorm(3), rng)
    nz.save(path, {"norm1": norm, "norm1.linear": nz.LayerNorm(7), "norm1.silu.inner": nz.RMSNorm(2)})
    other = nz.LayerNorm(3)
    assert sorted(nz.load(path, into={"norm1": other})) == ["norm1.bias", "norm1.weight"]
    check.same_bits(other.weight, norm.weight)
    with pytest.raises(ValueError, match=r"norm1: .*unexpected=\['weight', 'bias'\]|norm1: .*unexpected"):
        nz.load(path, into={"norm1": nz.MeanVarianceNorm()})  # its own arrays are not


def test_two_arrays_of_one_name_are_refused(tmp_path):
    inner = nz.LayerNorm(3)
    outer = nz.RMSNorm(3)
    outer.params["norm.bias"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"save: expected one array of each name, got two of 'a.norm.bias'; rename"):
        nz.save(tmp_path / "a.npz", {"a": outer, "a.norm": inner})
    assert not list(tmp_path.iterdir())
    nz.save(tmp_path / "a.npz", {"a": outer, "b.norm": inner})
    nz.load(tmp_path / "a.npz", {"a": outer, "b.norm": inner})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_stays_one_and_a_mode_is_kept(suffix, tmp_path, rng):
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / f"run-1{suffix}", tmp_path / f"latest{suffix}"
    link.symlink_to(real)  # ... to a file that is not there yet
    for value in (1, 2):
        norm = nz.LayerNorm(3)
        norm.weight[...] = value
        nz.save(link, norm)
        assert link.is_symlink() and not real.is_symlink()
        check.same_bits(nz.load(real)["weight"], norm.weight)
        real.chmod(0o600)
        nz.save(link, norm)
        assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert [p.name for p in real.parent.iterdir()] == [real.name]
    mask = os.umask(0o027)
    try:
        nz.save(tmp_path / f"new{suffix}", nz.LayerNorm(3))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / f"new{suffix}").stat().st_mode) == 0o640


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_name_as_long_as_file_systems_take(suffix, tmp_path):
    path = tmp_path / ("n" * (255 - len(suffix)) + suffix)
    nz.save(path, nz.LayerNorm(3))
    nz.load(path, into=nz.LayerNorm(3))


def test_what_is_said_of_paths_works(tmp_path, monkeypatch):
    """A file object, a folder that is missing or was deleted, a folder in the place of the file."""
    file = io.BytesIO()
    np.savez(file, weight=np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"load: expected a path that ends in .*, got BytesIO; write pathlib.Path\('state.npz'\)"
                       r"\.write_bytes\(file.getvalue\(\)\), and load that"):  # fmt: skip
        nz.load(file)
    monkeypatch.chdir(tmp_path)
    Path("state.npz").write_bytes(file.getvalue())
    nz.load("state.npz", into=nz.RMSNorm(3))
    with open("state.npz", "rb") as opened, pytest.raises(TypeError, match=r"file.read\(\)"):
        nz.load(opened)
    with pytest.raises(
        TypeError, match=r"save: .*got BytesIO; save to a path, and take pathlib.Path\(path\).read_bytes"
    ):
        nz.save(io.BytesIO(), nz.RMSNorm(3))
    path = Path("missing/dir/a.npz")
    with pytest.raises(FileNotFoundError, match=r"write pathlib.Path\(path\).parent.mkdir\(parents=True\): 'missing/dir/a.npz'|"
                       r"write pathlib.Path\(path\).parent.mkdir\(parents=True\)") as raised:  # fmt: skip
        nz.save(path, nz.RMSNorm(3))
    assert raised.value.filename == str(path)
    path.parent.mkdir(parents=True)
    nz.save(path, nz.RMSNorm(3))
    Path("folder.npz").mkdir()
    with pytest.raises(IsADirectoryError, match=r"save: expected a file, got a folder.*folder.npz"):
        nz.save("folder.npz", nz.RMSNorm(3))
    with pytest.raises(NotADirectoryError, match="save: expected a folder in which files can be made"):
        nz.save("state.npz/a.npz", nz.RMSNorm(3))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError, match="save: expected a folder that is there"):
        nz.save("a.npz", nz.RMSNorm(3))
    monkeypatch.chdir(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.npz", "missing", "state.npz"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"save: expected a path that ends in .safetensors or .npz, got 'a.pt'"):
        nz.save(tmp_path / "a.pt", nz.LayerNorm(3))
    with pytest.raises(TypeError, match="save: expected a norm or a dict name -> norm, got list"):
        nz.save(tmp_path / "a.npz", [nz.LayerNorm(3)])
    assert not list(tmp_path.iterdir())


def test_a_norm_that_the_file_does_not_have_is_told_what_it_has(tmp_path):
    nz.save(tmp_path / "norms.npz", {"stem": nz.LayerNorm(3), "block.1": nz.RMSNorm(3)})
    with pytest.raises(
        ValueError,
        match=r"norms.npz: head: LayerNorm.*; the file has 'block.1', 'stem', write into=\{'block.1': norm\}$",
    ):
        nz.load(tmp_path / "norms.npz", into={"head": nz.LayerNorm(3)})
