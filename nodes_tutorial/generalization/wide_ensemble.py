"""Networks with one wide hidden layer, trained side by side."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_filled, check_number, check_points, draw


class WideEnsemble:
    r"""Networks :math:`f(x)=\sqrt{2/m}\sum_ka_k\,\mathrm{relu}(w_k\cdot x)`, all in one tensor.

    The weights are standard normal at the start, as in ``wide_net``.

    Args:
        nets: number of networks.
        inputs: number of inputs.
        width: number m of hidden units of each.
        generator: source of the weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.

    Attributes:
        first: the vectors w, of shape (nets, width, inputs).
        last: the numbers a, of shape (nets, width).

    Raises:
        TypeError: a size is no integer, or ``generator`` is none.
        ValueError: a size below 1.

    Chapter: thm-ntk-limit

    >>> import torch
    >>> from nodes_tutorial.generalization import WideEnsemble
    >>> nets = WideEnsemble(5, 2, 100, generator=torch.Generator().manual_seed(0))
    >>> nets(torch.zeros(3, 2)).shape, nets.kernel(torch.zeros(3, 2)).shape
    (torch.Size([5, 3]), torch.Size([5, 3, 3]))
    """

    def __init__(
        self,
        nets: int,
        inputs: int,
        width: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, size in {"nets": nets, "inputs": inputs, "width": width}.items():
            check_count(name, size, least=1)
        self.first = draw(torch.randn, (nets, width, inputs), generator, dtype=dtype)
        self.last = draw(torch.randn, (nets, width), generator, dtype=dtype)
        self.scale = math.sqrt(2 / width)

    def __call__(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "nets n"]:
        """Outputs of all networks.

        Args:
            x: inputs, one in a row.
        """
        return self._read(self._before(x).relu())

    def kernel(
        self, x: Float[Tensor, "n inputs"], y: Float[Tensor, "m inputs"] | None = None
    ) -> Float[Tensor, "nets n m"]:
        r"""Tangent kernels of all networks.

        Args:
            x: inputs, one in a row.
            y: a second set; None means x.
        """
        y = x if y is None else y
        mine, other = self._before(x), self._before(y)
        signs = (mine > 0) * self.last[..., None]
        slopes = signs.mT @ ((other > 0) * self.last[..., None])
        return self.scale**2 * (mine.relu().mT @ other.relu() + slopes * (x @ y.mT))

    def descend(
        self,
        x: Float[Tensor, "n inputs"],
        y: Float[Tensor, " n"],
        *,
        rate: float | int,
        steps: int,
    ) -> "WideEnsemble":
        r"""The networks after gradient descent on :math:`\frac12\sum_i(f(x_i)-y_i)^2`.

        Args:
            x: inputs of the data.
            y: a target for each.
            rate: size of a step, positive.
            steps: number of steps.

        Returns:
            Other networks; these stay as they are.

        Raises:
            TypeError: ``rate`` is no number, or ``steps`` no integer.
            ValueError: shapes that do not fit, ``rate`` not positive, or ``steps`` negative.
        """
        check_filled("x", x)
        check_points("y", y, like=x)
        if y.shape != x.shape[:1]:
            raise ValueError(f"y must hold {len(x)} targets, got shape {tuple(y.shape)}")
        check_number("rate", rate, "a positive number", lambda h: 0 < h < math.inf)
        check_count("steps", steps)
        after = object.__new__(WideEnsemble)
        after.first, after.last, after.scale = self.first, self.last, self.scale
        for _ in range(steps):
            before = after._before(x)
            hidden = before.relu()
            r = after._read(hidden) - y
            pulled = (before > 0) * after.last[..., None] * r[:, None]
            step = torch.einsum("bn,bmn->bm", r, hidden)
            after.first = after.first - rate * self.scale * (pulled @ x)
            after.last = after.last - rate * self.scale * step
        return after

    def _before(self, x: Tensor) -> Float[Tensor, "nets width n"]:
        check_points("x", x, self.first.shape[2:], self.first)
        if x.ndim != 2:
            raise ValueError(f"x must have one input in a row, got shape {tuple(x.shape)}")
        return self.first @ x.mT

    def _read(self, hidden: Tensor) -> Float[Tensor, "nets n"]:
        return self.scale * torch.einsum("bm,bmn->bn", self.last, hidden)
