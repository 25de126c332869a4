"""A pretended GPU: PyTorch's ``meta`` device with values, and errors where a GPU would refuse an operation or wait.

A GPU computes while the host prepares the next operations. A blocking copy, or an operation whose result the host needs
(``.item()``, ``bool()``, a mask as index), makes the host wait. A tensor left on the CPU raises an error::

    with PretendedGPU() as gpu:
        method, batch = gpu.move(method), gpu.move(batch)
        output = method(batch, progress)  # raises HostWaits or LeftOnTheCPU
        output.loss.backward()
        loss = gpu.read(output.loss)

Values are computed on the CPU. Tensors that were on ``meta`` before the block have no values and cost nothing, so large
networks are checked without computing. Not simulated: autocast, kernels that a GPU lacks, memory, and its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
DEVICE = torch.device("meta")
READS = {
    aten._local_scalar_dense,  # item(), tolist(), bool(), int(), float()
    *(aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten.bincount),
    *(aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive),
}
"""Operations whose result, or its size, depends on values of the device."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
COPIES = {aten._to_copy, aten.copy_}
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class HostWaits(RuntimeError):
    """The host waits for the device."""


class LeftOnTheCPU(RuntimeError):
    """An operation combines tensors of the device and of the CPU."""


class DeviceTensor(Tensor):
    """A tensor on ``DEVICE`` with its values on the CPU."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        wrap: Any = Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        made: DeviceTensor = wrap(cls, values.size(), **layout, dtype=values.dtype, device=DEVICE)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside the block of the pretended GPU")


class PretendedGPU(TorchDispatchMode):
    """Compute on ``DEVICE`` inside the block; see the module's docstring.

    Args:
        strict: Raise an error where the host waits. Otherwise only count.

    Attributes:
        waits: Number of times the host waited, if not strict.
    """

    def __init__(self, strict: bool = True) -> None:
        super().__init__()
        self.strict, self.waits = strict, 0
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for module in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
                for kind in ("foreach", "fused"):
                    supported = f"{module}._get_{kind}_kernels_supported_devices"
                    stack.enter_context(mock.patch(supported, lambda: ["cpu", DEVICE.type]))
            overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
            stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            super().__enter__()
            stack.push(super().__exit__)
            stack.enter_context(_FromNumbers(self))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Neither count waits nor raise errors for them inside the block."""
        before, self.strict, waits = self.strict, False, self.waits
        try:
            yield
        finally:
            self.strict, self.waits = before, waits

    def move(self, thing: Any) -> Any:
        """Return a module, a batch or a tensor on the device."""
        with self.unchecked():
            return thing.to(DEVICE)

    def read(self, tensor: Tensor) -> Tensor:
        """Return the values of a tensor, on the CPU."""
        with self.unchecked():
            return tensor.detach().to("cpu")

    def wait(self, reason: str) -> None:
        """Raise an error, or count the wait."""
        self.waits += 1
        if self.strict:
            raise HostWaits(reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        on_device = [tensor for tensor in tensors if tensor.device == DEVICE]
        target = kwargs.get("device")
        to_device = bool(on_device) if target is None else torch.device(target) == DEVICE
        if not on_device and not to_device:
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):  # inference mode
            super().__enter__()
            try:
                return func.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)
        self.check(func, args, kwargs, tensors, to_device)
        with_values = [tensor for tensor in on_device if isinstance(tensor, DeviceTensor)]
        if len(with_values) < len(on_device):  # some values are unknown
            return func(*_map(lambda tensor: _values(tensor).to(DEVICE), args), **kwargs)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        result = func(*_map(_values, args), **{name: _map(_values, value) for name, value in kwargs.items()})
        if not to_device:
            return result
        known = {id(tensor.values): tensor for tensor in with_values}  # operations in place return their argument
        return _map(lambda leaf: known[id(leaf)] if id(leaf) in known else DeviceTensor(leaf), result)

    def check(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], to_device: bool) -> None:
        """Report a wait if the host waits for ``func``; raise an error if a GPU refuses its arguments."""
        packet, on_cpu = func.overloadpacket, [tensor for tensor in tensors if tensor.device != DEVICE]
        if packet in READS or func is aten.repeat_interleave.Tensor:
            self.wait(f"{packet} reads values of the device")
        elif packet in COPIES:
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if not to_device or (packet is aten.copy_ and tensors[0].device != DEVICE):
                self.wait(f"{packet} copies values to the CPU")
            elif on_cpu and on_cpu[0].numel() and blocking:
                self.wait(f"{packet} copies to the device without non_blocking=True")
        elif packet in INDEXING and any(i.dtype in (torch.bool, torch.uint8) for i in args[1] if i is not None):
            self.wait(f"{packet} counts the pixels of a mask")
        elif packet in INDEXING and any(i.device != DEVICE for i in args[1] if i is not None):
            self.wait(f"{packet} copies its index to the device")
        elif any(tensor.ndim or packet in (aten.cat, aten.stack) for tensor in on_cpu):
            raise LeftOnTheCPU(f"{packet} combines tensors of the device and of the CPU")


def _tensors(arguments: Any) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)


def _map(convert: Callable[[Tensor], Tensor], argument: Any) -> Any:
    """Return an argument with its tensors converted, also those in lists and tuples."""
    if isinstance(argument, Tensor):
        return convert(argument)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_map(convert, each) for each in argument)
    return argument


def _values(tensor: Tensor) -> Tensor:
    return tensor.values if isinstance(tensor, DeviceTensor) else tensor


class _FromNumbers(TorchFunctionMode):
    """Create tensors from Python numbers, which PyTorch skips on ``meta``. The copy makes the host wait."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            self.gpu.wait("tolist reads values of the device")
            return args[0].values.tolist()
        if func not in FROM_NUMBERS:
            return func(*args, **kwargs)
        like, data = (args[0], args[1]) if func is Tensor.new_tensor else (None, args[0])
        device = kwargs.get("device") or (None if like is None else like.device)
        if isinstance(data, Tensor) or device is None or torch.device(device) != DEVICE:
            return func(*args, **kwargs)
        self.gpu.wait(f"torch.{func.__name__} copies numbers to the device")
        dtype = kwargs.get("dtype") or (None if like is None else like.dtype)
        return self.gpu.move(torch.tensor(data, dtype=dtype))
