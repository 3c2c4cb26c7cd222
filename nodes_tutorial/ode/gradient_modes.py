"""What a gradient keeps in memory. The modes themselves are in ``adjoint``, behind ``odeint``."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    r"""Most bytes of tensor storage alive at once, among those made inside the context.

    .. math:: \text{peak} = \max_t \sum_{\text{storages alive at } t} \text{bytes}

    Tensors are counted when an operation returns them and until their storage is released. So the
    number depends neither on the load of the machine nor on the allocator. What an operation
    allocates and frees inside itself is not seen, and what was there before does not count.

    Attributes:
        live: bytes alive now.
        peak: most bytes that were alive at once.

    Chapter: obs-modes-memory

    >>> import torch
    >>> from nodes_tutorial.ode.gradient_modes import PeakMemory
    >>> with PeakMemory() as memory:
    ...     for _ in range(10):
    ...         x = torch.zeros(1000, dtype=torch.float64)
    >>> memory.peak  # the next one is made before the last one goes
    16000
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for x in tree_leaves((args, kwargs)):
            self._track(x, counted=False)
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            self._track(x, counted=True)
        return out

    def _track(self, x: object, counted: bool) -> None:
        if not isinstance(x, Tensor):
            return
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
