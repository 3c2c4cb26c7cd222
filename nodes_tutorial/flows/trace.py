"""The divergence of a field: exactly, or estimated with random probes that are held."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.flows.field import Field, value_and_products
from nodes_tutorial.flows.regularize import PENALTIES

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def contract(
    products: Float[Tensor, "k *batch dim"], v: Float[Tensor, "k *batch dim"] | None
) -> Float[Tensor, "*batch"]:
    r"""The trace from products of the Jacobian.

    .. math:: \operatorname{tr}J = \sum_i e_i^\top J e_i
        \qquad\text{or}\qquad \frac1k\sum_{j=1}^k \varepsilon_j^\top J\varepsilon_j

    Args:
        products: as ``value_and_products`` returns them.
        v: the probes; None when the products are those of all unit vectors.

    Returns:
        The trace, or its estimate, at each point.

    Chapter: prop-ffjord-unbiased

    References: Grathwohl et al. (2019), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows.trace import contract
    >>> contract(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), None)
    tensor(5.)
    """
    if v is None:
        return torch.einsum("i...i->...", products)
    return (products * v).sum(-1).mean(0)


def exact(field: Field) -> Divergence:
    r"""The field together with its divergence, from dim products of the Jacobian.

    Args:
        field: ``f(t, x)``, each row by itself.

    Returns:
        A function of (t, x) with the value :math:`f(t, x)` of shape (\*batch, dim) and
        :math:`\operatorname{tr}\partial f/\partial x` of shape (\*batch,).

    Chapter: prop-continuous-cost

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), theorem 1.

    >>> import torch
    >>> from nodes_tutorial.flows.trace import exact
    >>> value, trace = exact(lambda t, x: t * x**2)(torch.tensor(2.0), torch.tensor([[1.0, 3.0]]))
    >>> trace
    tensor([16.])
    """
    return _divergence(field, None)


def hutchinson(field: Field, probes: Float[Tensor, "k *batch dim"]) -> Divergence:
    r"""The field together with an unbiased estimate of its divergence.

    The probes are part of what is returned: they stay the same at every call, as they must
    during one solve.

    Args:
        field: ``f(t, x)``, each row by itself.
        probes: from ``linalg.draw_probes``, k for each point.

    Returns:
        A function of (t, x) with the value and the mean of
        :math:`\varepsilon^\top(\partial f/\partial x)\varepsilon` over the probes.

    Chapter: prop-ffjord-unbiased

    References: Hutchinson (1990); Grathwohl et al. (2019), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows.trace import hutchinson
    >>> probes = torch.tensor([[[1.0, -1.0]]])
    >>> hutchinson(lambda t, x: x.flip(-1), probes)(torch.tensor(0.0), torch.zeros(1, 2))[1]
    tensor([-2.])
    """
    return _divergence(field, probes)


def _divergence(field: Field, v: Tensor | None) -> Divergence:
    def value_and_trace(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        value, products = value_and_products(field, t, x, v)
        return value, contract(products, v)

    return value_and_trace


class Augmented:
    r"""The field of a point together with what is measured along its path.

    .. math:: \frac{d}{dt}\begin{pmatrix} x \\ \ell \\ \pi \end{pmatrix} = \begin{pmatrix}
        f(t, x) \\ \operatorname{tr}\,\partial f/\partial x \\ \text{penalties}\end{pmatrix}

    One set of Jacobian products serves the trace and the penalties.

    Args:
        field: the right-hand side, called as ``field(t, x)``.
        probes: directions of the estimated trace; None for the exact one.
        penalties: keys of ``regularize.PENALTIES``.
        count: whether evaluations are counted.

    Attributes:
        nfe: evaluations so far; not counted while ``count`` is False.

    Chapter: thm-continuous-change

    References: Grathwohl et al. (2019).
    """

    def __init__(
        self, field: Field, probes: Tensor | None, penalties: Sequence[str] = (), count: bool = True
    ) -> None:
        self.field, self.probes, self.count, self.nfe = field, probes, count, 0
        self.rates = [PENALTIES[name] for name in penalties]

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Slopes of (x, log-determinant, penalties)."""
        if self.count:
            self.nfe += 1
        value, products = value_and_products(self.field, t, state[0], self.probes)
        trace = contract(products, self.probes)
        probed = self.probes is not None
        return value, trace, *(rate(value, products, probed) for rate in self.rates)
