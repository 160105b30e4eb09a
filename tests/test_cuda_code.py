"""The machine code of every CUDA kernel, within the limits of `cuda_limits.json`: registers, accesses, instructions.

No kernel has a stack frame, spills, or touches local memory. Where arrays begin at multiples of 16 bytes, values move
16 bytes at a time. What the table says of a kernel for an architecture is: registers, loads and stores of global memory
of 16 bytes and of fewer, and instructions for each value that a thread holds, those of rarely taken branches too.

    python -m tests.test_cuda_code              measures all kernels and writes the table
    python -m tests.test_cuda_code "rows 4x8"   those whose names have this in them
"""

import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from normzoo.backends.activations import activation, list_activations
from tests.cuda_executor import unavailable
from tests.cuda_executor.lowering import nothing_found_twice, on_device

TABLE = Path(__file__).parent / "cuda_limits.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
COLUMNS = (
    "registers",
    "loads of 16 bytes",
    "other loads",
    "stores of 16 bytes",
    "other stores",
    "instructions a value",
)


def tool(name):
    """The path of a program of a wheel, or None."""
    for entry in sys.path:
        for folder in ("nvidia/cuda_nvcc/bin", "nvidia/cu13/bin", "nvidia/cu12/bin", "nvidia/cuda_nvdisasm/bin"):
            path = Path(entry) / folder / name
            if path.is_file():
                return path
    return None


if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)
if tool("ptxas") is None or tool("nvdisasm") is None:
    pytest.skip('ptxas or nvdisasm is missing: pip install "normzoo[cuda-lint]"', allow_module_level=True)


@functools.cache
def variants():
    """name -> Variant."""
    from normzoo.backends import cuda  # noqa: PLC0415

    return {v.name: v for v in cuda.variants()}


@functools.cache
def limits():
    """name -> architecture -> the numbers of COLUMNS."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def assembled(ptx, architecture):
    """What ptxas says of a kernel, and its instructions."""
    with tempfile.TemporaryDirectory() as folder:
        source, code = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        said = subprocess.run(
            [tool("ptxas"), f"-arch={architecture}", "-v", source, "-o", code],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        shown = subprocess.run([tool("nvdisasm"), "-c", code], check=True, capture_output=True, text=True).stdout
    return said, re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", shown, re.M)


def measured(variant):
    """architecture -> (stack frame, spills, local accesses, calls), the numbers of COLUMNS."""
    from numba import cuda  # noqa: PLC0415

    from normzoo.backends.cuda.driver import launch_bounds  # noqa: PLC0415

    with on_device((8, 0)), nothing_found_twice():
        ptx, _ = cuda.compile(
            variant.kernel,
            variant.signature,
            cc=(8, 0),
            device=False,
            abi="numba",
            launch_bounds=launch_bounds(variant.block),
        )
    lanes = getattr(variant.kernel.form, "lanes", 1)  # of kernels that merge parts: one
    found = {}
    for architecture in ARCHITECTURES:
        said, code = assembled(ptx, architecture)
        frame, spilled, read_back = (
            int(n)
            for n in re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said
            ).groups()
        )
        local = sum(c.startswith(("LDL", "STL")) for c in code)
        loads, stores = ([c for c in code if c.startswith(kind)] for kind in ("LDG", "STG"))
        wide = [sum(".128" in c for c in accesses) for accesses in (loads, stores)]
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        found[architecture] = (frame, spilled + read_back, local), [
            registers, wide[0], len(loads) - wide[0], wide[1], len(stores) - wide[1],
            round(sum(c != "NOP" for c in code) / lanes, 1),
        ]  # fmt: skip
    return found


ROWS, COLUMNS_OF_8 = r"rows 4x(8 team 32|16 team 512) full", r"columns beside 8 4x[48] team 32 (set|full)"
QUICK = rf"({ROWS}|{COLUMNS_OF_8}) float32$|apply rows 8x4 team 32 full b?float16$"


def quick(name):
    """Is this one of the kernels that every run of the suite looks at?"""
    return re.search(QUICK, name)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if quick(n) else pytest.mark.slow) for n in variants()])
def test_machine_code_is_within_its_limits(name):
    variant = variants()[name]
    allowed = limits().get(name)
    assert allowed is not None, f"{TABLE.name} has no {name}: run python -m tests.test_cuda_code"
    for architecture, (memory, numbers) in measured(variant).items():
        assert memory == (0, 0, 0), f"{architecture}: stack frame, spills, local accesses {memory}"
        for column, number, limit in zip(COLUMNS, numbers, allowed[architecture], strict=True):
            if column.endswith("of 16 bytes"):
                assert number >= limit, f"{architecture}: {number} {column}, {limit} before"
            else:
                assert number <= limit, f"{architecture}: {number} {column}, at most {limit}"


def test_the_table_lists_what_there_is():
    assert set(limits()) <= set(variants()), "kernels that are no more: run python -m tests.test_cuda_code"


BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


@pytest.mark.parametrize("ends", list(BYTES))
def test_values_move_16_bytes_at_a_time(ends):
    looked_at = 0
    for name, rows in limits().items():
        if name.split()[-1] != ends:
            continue
        form = getattr(variants()[name].kernel, "form", None) if name in variants() else None
        if form is None or isinstance(form, str) or form.size == 1 or not form.aligned:
            continue
        if form.size * BYTES[ends] < 16:  # columns of 16 bits, going back: see `forms.plan`
            assert form.columns and name.startswith(("backward", "gradient"))
            continue
        kernel = name.split()[0]
        tensors, written = {
            "forward": (1, 1),
            "apply": (1, 1),
            "pieces": (1, 0),
            "backward": (2, 0),
            "gradient": (2, 1),
        }[kernel]
        for architecture, (_, loads, _, stores, *_) in rows.items():
            assert loads >= tensors * form.groups, f"{name} {architecture}"
            assert stores >= written * form.groups, f"{name} {architecture}"
            looked_at += 1
    assert looked_at, f"no kernel of {ends}"


ACTIVATIONS = [str(name) for name in list_activations() if name != "identity" and not activation(name).parameter]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "silu" else pytest.mark.slow) for n in ACTIVATIONS])
def test_nvvm_takes_every_activation_and_its_derivative(name):
    """What the executor's LLVM takes NVVM's old one may not: its verifier says so."""
    from numba import cuda  # noqa: PLC0415

    from normzoo.backends.around import Around  # noqa: PLC0415
    from normzoo.backends.cuda import variants  # noqa: PLC0415
    from normzoo.backends.cuda.driver import use  # noqa: PLC0415

    recorder = variants._Recorder()
    with use(recorder):
        shown = ((64, 1, 1, 64), (1, 1, 1, 64))
        around = Around(behind="gate", activation=activation(name))
        variants._record(*shown, np.dtype(np.float32), np.dtype(np.float32), 0, around)
    found = {v.kernel.__name__: v for v in recorder.variants.values()}
    for kernel in ("forward_kernel", "backward_kernel"):
        v = found[kernel]
        with on_device((8, 0)), nothing_found_twice():
            ptx, _ = cuda.compile(v.kernel, v.signature, cc=(8, 0), device=False, abi="numba")
        assert ".entry" in ptx


def main():
    """Measure, and write the table."""
    chosen = sys.argv[1:]
    table = dict(limits()) if chosen else {n: v for n, v in limits().items() if n in variants()}
    for name, variant in variants().items():
        if chosen and not any(part in name for part in chosen):
            continue
        found = measured(variant)
        for architecture, (memory, _) in found.items():
            if memory != (0, 0, 0):
                print(f"{name} {architecture}: stack frame, spills, local accesses {memory}")
        table[name] = {architecture: numbers for architecture, (_, numbers) in found.items()}
        print(name, table[name]["sm_90"], flush=True)
        lines = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in sorted(table.items())]
        TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
