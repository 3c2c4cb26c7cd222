"""How much memory the graphs of autograd hold."""

import weakref
from types import TracebackType

import torch
from torch import Tensor


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class GraphMemory:
    """Bytes of the storage that graphs hold, for graphs that are made inside a ``with``.

    A storage that several nodes keep is counted once. What a graph frees, or what is forgotten with
    it, is taken off again. Tangents of forward mode and plain tensors are not counted.

    Attributes:
        now: bytes that are held at this moment.
        peak: the most that were held at once.

    >>> import torch
    >>> from nodes_tutorial.implicit import GraphMemory
    >>> x = torch.ones(100, requires_grad=True)
    >>> with GraphMemory() as memory:
    ...     y = x.sin().sum()
    >>> memory.now
    400
    >>> y.backward()
    >>> memory.now, memory.peak
    (0, 400)
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._users: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda it: it.tensor)

    def __enter__(self) -> "GraphMemory":
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        users = self._users.get(key, 0)
        self._users[key] = users + 1
        self.now += 0 if users else size
        self.peak = max(self.peak, self.now)
        held = _Held(tensor.detach())  # an output of a node would hold that node
        weakref.finalize(held, self._drop, key, size)
        return held

    def _drop(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            self.now -= size
