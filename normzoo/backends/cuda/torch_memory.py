"""Memory of PyTorch's allocator, for work on its tensors: so results are tensors like any other, which `record_stream`,
`torch.cuda.empty_cache` and the capture of graphs know of, and one library alone keeps memory back."""

from importlib import import_module
from typing import Any

import numpy as np


def current_stream(tensor: Any) -> int:
    """The handle of the stream on which PyTorch works now, on the tensor's device."""
    return int(import_module("torch").cuda.current_stream(tensor.device).cuda_stream)


class TorchMemory:
    """A tensor of bytes, as the owner of a `DeviceArray`."""

    __slots__ = ("address", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor, self.address = tensor, int(tensor.data_ptr())

    @classmethod
    def take(cls, nbytes: int, stream: int) -> "TorchMemory | None":
        """New memory; None if PyTorch works on another stream, to which its memory would belong."""
        torch = import_module("torch")
        if int(torch.cuda.current_stream().cuda_stream) != stream:
            return None
        return cls(torch.empty(nbytes, dtype=torch.uint8, device="cuda"))


def as_tensor(found: Any, device: int) -> Any:
    """A `DeviceArray` as a tensor on the same memory."""
    torch = import_module("torch")
    kind = getattr(torch, found.dtype.name)
    if isinstance(found.owner, TorchMemory):
        items = found.owner.tensor[: found.owner.tensor.numel() // found.itemsize * found.itemsize].view(kind)
        first = (found.address - found.owner.address) // found.itemsize
        return items.as_strided(found.shape, tuple(s // found.itemsize for s in found.strides), first)
    where = f"cuda:{device}"
    if found.dtype.name == "bfloat16":  # which the interface has no name for
        bits = found.view()
        bits.dtype = np.dtype(np.int16)
        return torch.as_tensor(bits, device=where).view(kind)
    return torch.as_tensor(found, device=where)
