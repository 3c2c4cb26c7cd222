"""Roots and minima as differentiable functions of what their equations depend on."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.implicit.function import answer
from nodes_tutorial.implicit.newton import Newton, Solver


def root(
    F: Callable[..., Tensor],
    x0: Float[Tensor, "*shape"],
    *args: Any,
    solver: Solver | None = None,
    batch: int = 0,
    rtol: float | None = None,
    max_steps: int = 100,
) -> Float[Tensor, "*shape"]:
    r"""Solve F(x, \*args) = 0; the result is differentiable in args.

    .. math:: \frac{\dd x}{\dd a} = -\Bigl(\frac{\partial F}{\partial x}\Bigr)^{-1}
        \frac{\partial F}{\partial a}

    Reverse and forward mode, second and higher derivatives, ``torch.func.grad``, ``jvp`` and
    ``vmap`` work. No step of the solver is stored. The derivative of F is formed as a matrix,
    so that the unknown should have at most some hundreds of entries.

    Args:
        F: from x and args to the shape of x.
        x0: the first approximation. There is no derivative with respect to it.
        args: tensors, or tuples, lists and dicts of them, that x depends on; other things pass
            through. Everything that has a gradient must be here, not closed over.
        solver: ``solver(F of x alone, x0)`` returns a root that was found in another way; None
            means Newton's method with halved steps.
        batch: number of leading axes of x along which the equations are independent.
        rtol: largest estimated distance from the root, relative to the size of x; None means
            the square root of the precision.
        max_steps: most steps of Newton's method.

    Returns:
        The root.

    Raises:
        TypeError: x0 is not a floating-point tensor, F returns none, a number of another type.
        ValueError: F returns another shape, closes over a tensor with a gradient, or lets one
            problem of a batch depend on another.
        RootError: no root was found, or ``solver`` returned something else.
        SingularError: the derivative of F cannot be inverted at the root.

    Chapter: thm-hyperparameters-implicit

    References: Blondel et al. (2022), section 2.

    >>> import torch
    >>> from nodes_tutorial.implicit import root
    >>> a = torch.tensor(2.0, requires_grad=True)
    >>> x = root(lambda x, a: x**2 - a, torch.tensor(1.0), a)
    >>> x.backward()
    >>> x.detach(), a.grad
    (tensor(1.4142), tensor(0.3536))
    """
    problem = _problem(x0, solver, batch, rtol, max_steps)
    return answer("F", F, x0, args, lambda fun: problem(fun, False), lambda x: x.shape)


def argmin(
    f: Callable[..., Tensor],
    x0: Float[Tensor, "*shape"],
    *args: Any,
    solver: Solver | None = None,
    batch: int = 0,
    rtol: float | None = None,
    max_steps: int = 100,
) -> Float[Tensor, "*shape"]:
    r"""Minimize f(x, \*args) over x; the result is differentiable in args.

    It is the root of the gradient, and is refused where the Hessian is not positive definite. For
    many parameters, and a validation loss of their optimum, ``hypergradient`` forms no matrix.

    Args:
        f: from x and args to a number, or with ``batch`` to one for each problem.
        x0: the first approximation. There is no derivative with respect to it.
        args: what x depends on, as for ``root``.
        solver: ``solver(f of x alone, x0)`` returns a minimum that was found in another way; None
            means Newton's method, downhill.
        batch: number of leading axes of x along which the problems are independent.
        rtol: largest estimated distance from the minimum, as for ``root``.
        max_steps: most steps of Newton's method.

    Returns:
        The minimum that was found from x0.

    Raises:
        TypeError: x0 is not a floating-point tensor, f returns none, a number of another type.
        ValueError: f returns another shape, closes over a tensor with a gradient, or lets one
            problem of a batch depend on another.
        RootError: the gradient does not vanish where the search ended.
        IndefiniteError: it vanishes at a point that is no minimum.
        SingularError: the Hessian cannot be inverted there.

    Chapter: thm-hyperparameters-implicit

    References: Blondel et al. (2022), section 2; Gould et al. (2016).

    >>> import torch
    >>> from nodes_tutorial.implicit import argmin
    >>> lam = torch.tensor(1.0, requires_grad=True)
    >>> w = argmin(lambda w, lam: (w - 1) ** 2 + lam * w**2, torch.tensor(0.0), lam)
    >>> w.backward()
    >>> w.detach(), lam.grad
    (tensor(0.5000), tensor(-0.2500))
    """
    problem = _problem(x0, solver, batch, rtol, max_steps)
    return answer("f", f, x0, args, lambda fun: problem(fun, True), lambda x: x.shape[:batch])


def _problem(
    x0: Tensor, solver: Solver | None, batch: int, rtol: float | None, steps: int
) -> Callable[[Callable[..., Tensor], bool], Newton]:
    check_points("x0", x0)
    check_count("batch", batch)
    check_count("max_steps", steps)
    if batch > x0.ndim:
        raise ValueError(f"batch must be at most the axes of x0, {x0.ndim}, got {batch}")
    default = torch.finfo(x0.dtype).eps ** 0.5
    given = default if rtol is None else rtol
    tolerance = check_number("rtol", given, "a number > 0 or None", lambda tol: tol > 0)
    return lambda fun, minimum: Newton(fun, batch, solver, tolerance, steps, minimum)
