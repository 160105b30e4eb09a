"""Statistics of Dask arrays: Dask's own tree over the chunks, on whatever scheduler, gives those of the whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from tests import check

da = pytest.importorskip("dask.array", reason="needs dask: pip install 'normzoo[dask]'")


@pytest.mark.parametrize("axis", [0, -1, (0, 2), None])
@pytest.mark.parametrize("chunks", [(2, 4, 3), (3, 1, 2), (7, 4, 6)])
def test_chunks_give_the_whole(axis, chunks, rng):
    x = (1e4 + rng.standard_normal((7, 4, 6))).astype(np.float32)
    lazy, expected = da.from_array(x, chunks=chunks), nz.Stats.of(x, axis)
    found = nz.stats_of(lazy, axis, split_every=2)
    assert found.shape == expected.shape and (found.count == expected.count).all()
    check.close(found.mean, expected.mean, check.EXACT)
    check.close(found.m2, expected.m2, 1e-11)


def test_the_scheduler_does_not_show_in_the_bits(rng):
    import dask  # noqa: PLC0415

    lazy = da.from_array(rng.standard_normal((40, 5)), chunks=(3, 5))
    with dask.config.set(scheduler="synchronous"):
        one = nz.stats_of(lazy, 0)
    with dask.config.set(scheduler="threads"):
        for name, a in nz.stats_of(lazy, 0).to_dict().items():
            check.same_bits(a, getattr(one, name))


def test_empty_chunks_and_wrong_types(rng):
    x = rng.standard_normal((6, 3))
    lazy = da.concatenate([da.from_array(x[:0]), da.from_array(x[:4]), da.from_array(x[4:])])
    check.close(nz.stats_of(lazy, 0).mean, x.mean(axis=0), check.EXACT)
    with pytest.raises(TypeError, match="expected x of dtype .* got int64"):
        nz.stats_of(da.arange(5), 0)
    with pytest.raises(ValueError, match="different axes"):
        nz.stats_of(lazy, 2)


def test_chunks_larger_in_total_than_the_memory_of_the_workers():
    pytest.importorskip("distributed")
    script = Path(__file__).parent / "on_workers.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "854 MiB in workers of 800 MiB"
