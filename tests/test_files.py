"""State files: what is written is read, by others too; nothing is half written, half read, or run."""

import importlib.util
import pickle

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


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"save: expected a path that ends in .safetensors or .npz, got 'a.pt'"):
        nz.save(tmp_path / "a.pt", nz.LayerNorm(3))
    with pytest.raises(TypeError, match="save: expected a norm or a dict name -> norm, got list"):
        nz.save(tmp_path / "a.npz", [nz.LayerNorm(3)])
    assert not list(tmp_path.iterdir())
