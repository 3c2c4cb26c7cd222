"""A module as a function of one vector of weights."""

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nodes_tutorial.checks import check_points


class FlatModule:
    r"""Any module as a function of one vector of all its weights, for many vectors at once.

    The vector holds the parameters in the order of ``named_parameters``. All vectors of a batch
    are applied in one call, by ``vmap``.

    Args:
        module: the module, without buffers; it is copied and never changed.

    Attributes:
        dim: number of weights.
        shapes: shape of each parameter by its name.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: ``module`` has no parameter, or has buffers, which are no weights.

    Chapter: prop-networks-bbb

    >>> import torch
    >>> from nodes_tutorial.bayes import FlatModule
    >>> line = FlatModule(torch.nn.Linear(2, 1))
    >>> line(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]]), torch.ones(4, 2)).shape
    torch.Size([2, 4, 1])
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        if next(module.buffers(), None) is not None:
            raise ValueError("module must have no buffers, because they are no weights")
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        if not self.shapes:
            raise ValueError("module must have a parameter, got one without")
        self.dim = sum(math.prod(shape) for shape in self.shapes.values())
        self.start = torch.cat([p.detach().flatten() for p in module.parameters()])
        self._module = copy.deepcopy(module).requires_grad_(False)

    def split(self, w: Float[Tensor, "*draws dim"]) -> dict[str, Tensor]:
        """The parameters by name, each with the leading axes of ``w``."""
        check_points("w", w, (self.dim,))
        parts = w.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {
            name: part.reshape(*w.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def __call__(self, w: Float[Tensor, "*draws dim"], x: Tensor) -> Tensor:
        """Outputs at ``x`` of the module with the weights ``w``, for each vector of weights."""
        check_points("w", w, (self.dim,))
        if w.ndim == 1:
            return functional_call(self._module, self.split(w), (x,))
        rows = vmap(self._one, in_dims=(0, None))(w.reshape(-1, self.dim), x)
        return rows.reshape(*w.shape[:-1], *rows.shape[1:])

    def paired(self, w: Float[Tensor, "*draws dim"], x: Tensor) -> Tensor:
        """Outputs where each vector of weights has inputs of its own.

        Raises:
            TypeError: ``w`` is no floating-point tensor.
            ValueError: ``w`` is no matrix of weights, or ``x`` has another number of rows.
        """
        check_points("w", w, (self.dim,))
        if w.ndim != 2 or x.shape[:1] != w.shape[:1]:
            raise ValueError(
                "x must hold inputs for each row of w, "
                f"got shapes {tuple(x.shape)} and {tuple(w.shape)}"
            )
        return vmap(self._one)(w, x)

    def _one(self, w: Tensor, x: Tensor) -> Tensor:
        return functional_call(self._module, self.split(w), (x,))
