"""A Numba of which private names are gone or changed: kernels are compiled the ordinary way, and that is said once."""

import pytest

from tests.robust.process import script

START = """
import warnings
import numba
"""
END = """
import numpy as np
import normzoo as nz

x = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    y = nz.RMSNorm(100)(x)
    nz.functional.rms_norm(x, 100)
with nz.use("reference"):
    assert np.abs(nz.RMSNorm(100)(x) - y).max() < 1e-6
found = [str(w.message) for w in found if "normzoo" in str(w.message)]
from normzoo.backends.cpu.numba_internals import way
"""
GONE = {
    "a name": "import numba.core.codegen\ndel numba.core.codegen.JITCodeLibrary\n",
    "a module": "import sys\nsys.modules['numba.core.descriptors'] = None\n",
}


@pytest.mark.parametrize("gone", GONE)
def test_the_ordinary_way_without(gone):
    script(START + GONE[gone] + END + "assert not way.is_own and len(found) == 1, found\nassert 'ordinary' in found[0]")


def test_an_unknown_version_is_tried_before_it_is_relied_on():
    """The real Numba under another number: it compiles, and nothing is said."""
    version = "numba.version_info = numba.version_info._replace(major=99)\n"
    script(START + version + END + "assert way.is_own and not found, found")


def test_an_unknown_version_that_gives_wrong_values():
    """A primitive that computes something else, as if LLVM's code were made otherwise."""
    broken = """
numba.version_info = numba.version_info._replace(major=99)
from llvmlite import ir
real = ir.IRBuilder.fmul
ir.IRBuilder.fmul = lambda self, a, b, *more: real(self, a, a.type(0.25) if isinstance(b, ir.Constant) else b, *more)
from normzoo.backends.cpu.numba_internals import way
ir.IRBuilder.fmul = real
"""
    script(START + "warnings.simplefilter('ignore')\n" + broken + END + "assert not way.is_own")


OPTIONAL = """
import numba.core.compiler_lock
numba.core.compiler_lock.global_compiler_lock = object()
from normzoo.backends.cpu.numba_internals import optional
assert len(optional.compilers_locks()) == 1
import numba.np.ufunc.parallel
del numba.np.ufunc.parallel._is_initialized
assert optional.threads_are_started()
import sys
sys.modules["numba.misc.appdirs"] = None
assert optional.users_cache() == ""
"""


def test_what_is_optional_may_be_gone():
    script(OPTIONAL)


def test_a_cache_of_which_names_are_gone_is_none(tmp_path):
    """Kernels are compiled, and the loss is told once."""
    broken = """
import logging
told = []
logging.getLogger("normzoo").addFilter(lambda record: told.append(record.getMessage()))
import numba.core.caching
del numba.core.caching.IndexDataCacheFile
"""
    script(
        START + broken + END + "assert len(told) == 1 and 'not stored on disk' in told[0], told",
        NUMBA_CACHE_DIR=tmp_path,
    )
