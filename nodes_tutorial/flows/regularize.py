"""Penalties that keep a continuous flow easy to integrate, measured along the solve."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_filled, check_number, check_points
from nodes_tutorial.flows.conditional import check_context
from nodes_tutorial.flows.flow import Flow

Rate = Callable[[Tensor, Tensor, bool], Tensor]


def kinetic(
    value: Float[Tensor, "*batch dim"], products: Float[Tensor, "k *batch dim"], probed: bool
) -> Float[Tensor, "*batch"]:
    r"""The rate :math:`\|f(t, x)\|^2`; its integral is the energy of the path.

    Args:
        value: values of the field.
        products: products of its Jacobian; not used.
        probed: whether they are with probes; not used.

    Returns:
        The rate at each point.

    Chapter: def-ffjord-penalties

    References: Finlay, Jacobsen, Nurbekyan and Oberman (2020), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows.regularize import kinetic
    >>> kinetic(torch.tensor([3.0, 4.0]), torch.zeros(1, 2), True)
    tensor(25.)
    """
    return value.square().sum(-1)


def jacobian(
    value: Float[Tensor, "*batch dim"], products: Float[Tensor, "k *batch dim"], probed: bool
) -> Float[Tensor, "*batch"]:
    r"""The rate :math:`\|\partial f/\partial x\|_F^2`, from the products that the trace has made.

    With probes it is the mean of :math:`\|J\varepsilon\|^2` (of
    :math:`\|\varepsilon^\top J\|^2` for a field without a tangent rule), which is unbiased.

    Args:
        value: values of the field; not used.
        products: products of its Jacobian, with probes or with all unit vectors.
        probed: whether they are with probes.

    Returns:
        The rate at each point.

    Chapter: def-ffjord-penalties

    References: Finlay, Jacobsen, Nurbekyan and Oberman (2020), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.flows.regularize import jacobian
    >>> jacobian(torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 2.0]]), False)
    tensor(9.)
    """
    squares = products.square().sum(-1)
    return squares.mean(0) if probed else squares.sum(0)


PENALTIES: dict[str, Rate] = {"kinetic": kinetic, "jacobian": jacobian}


def penalized_nll(
    flow: Flow,
    x: Float[Tensor, "batch dim"],
    weights: Mapping[str, float],
    context: Float[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    r"""Training loss of a regularized flow, in one solve for each transform.

    .. math:: \frac1n\sum_i\Bigl[-\log p(x_i)
        + \lambda_K\!\int\|f\|^2\,dt + \lambda_J\!\int\|\partial f/\partial x\|_F^2\,dt\Bigr]

    Args:
        flow: a flow; each of its ``CNF`` transforms must integrate the penalties named.
        x: points of the data, one a row.
        weights: the factor of each penalty, by name.
        context: as for ``Flow.log_prob``.

    Returns:
        The loss, and a dictionary of its parts. The parts are ``"nll"`` and, by name, the mean of
        each penalty without its weight.

    Raises:
        TypeError: a factor is not a number, or as for ``Flow.log_prob``.
        ValueError: a name is not a penalty of a ``CNF`` of the flow, or the flow has no ``CNF``; a
            factor is not finite; no points, or as for ``Flow.log_prob``.

    Chapter: def-ffjord-penalties

    References: Finlay, Jacobsen, Nurbekyan and Oberman (2020).

    >>> import torch
    >>> from nodes_tutorial.flows import penalized_nll
    >>> from nodes_tutorial.flows import CNF, Flow, StandardNormal
    >>> cnf = CNF(lambda t, x: 0 * x, regularize=("kinetic",))
    >>> loss, parts = penalized_nll(
    ...     Flow(StandardNormal(2), [cnf]), torch.zeros(1, 2), {"kinetic": 0.1}
    ... )
    >>> f"{loss:.4f} {parts['kinetic']:.4f}"
    '1.8379 0.0000'
    """
    check_points("x", x, flow.event_shape, next(flow.transforms.parameters(), None))
    check_filled("x", x)
    for name, factor in weights.items():
        check_number(f"weights[{name!r}]", factor, "a finite number", math.isfinite)
    asked = context is not None or flow.context
    context = check_context(context, flow.context, x.shape[:-1], look=True) if asked else None
    log_prob, totals = x.new_zeros(len(x)), dict.fromkeys(weights, x.new_zeros(()))
    found = False
    for transform in reversed(flow.transforms):
        measured = getattr(transform, "regularize", None)
        given = {"context": context} if transform.context else {}
        if measured is None:
            x, ladj = transform.inverse(x, **given)
        else:
            found = True
            missing = [name for name in weights if name not in measured]
            if missing:
                raise ValueError(
                    f"weights names {missing}, but a CNF of the flow integrates {list(measured)}: "
                    "give it regularize="
                )
            x, ladj, penalties = transform.inverse_with_penalties(x, **given)
            totals = {name: totals[name] + penalties[name].mean() for name in weights}
        log_prob = log_prob + ladj
    if weights and not found:
        raise ValueError("weights must be empty for a flow without a CNF")
    nll = -(flow.base.log_prob(x) + log_prob).mean()
    loss = nll + sum(weights[name] * totals[name] for name in weights)
    return torch.as_tensor(loss), {"nll": nll, **totals}
