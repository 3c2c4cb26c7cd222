r"""Three matrices with the shape of a Hessian: Fisher, empirical Fisher, generalized Gauss–Newton.

Each is a mean over the examples, :math:`\frac1n\sum_{ik}J_i^\top s_{ik}s_{ik}^\top J_i`, with other
covectors s of the outputs.
"""

import torch
from torch import Tensor, nn
from torch.func import grad, hessian, vmap

from nodes_tutorial.generalization.curvature import Curvature
from nodes_tutorial.generalization.likelihoods import Likelihood
from nodes_tutorial.generalization.rows import Rows
from nodes_tutorial.linalg import IndefiniteError


def fisher_matrix(module: nn.Module, x: Tensor, *, likelihood: Likelihood) -> Curvature:
    r"""The Fisher matrix: targets are drawn from the model, in closed form.

    .. math:: F=\frac1n\sum_i\mathrm E_{y\sim p(\cdot\mid f(x_i))}\,
        \nabla_\theta\log p(y\mid f(x_i))\,\nabla_\theta\log p(y\mid f(x_i))^\top

    Args:
        module: from inputs to rows of outputs; each example alone.
        x: the inputs (n, ...), one example each.
        likelihood: the law of a target, given outputs.

    Returns:
        The matrix, as a ``Curvature``.

    Raises:
        ValueError: as for ``Rows`` and ``Likelihood.check``.

    Chapter: def-fisher-matrices

    References: Kunstner, Balles and Hennig (2019), equation 3.

    >>> import torch
    >>> from nodes_tutorial.generalization import fisher_matrix, gaussian
    >>> line = torch.nn.Linear(1, 1)
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> fisher_matrix(line, x, likelihood=gaussian()).matrix()
    tensor([[5., 2.],
            [2., 1.]])
    """
    rows = Rows(module, x)
    f = rows.outputs.detach()
    likelihood.check(f, None)
    return Curvature(rows, likelihood.root(f))


def empirical_fisher(
    module: nn.Module, x: Tensor, y: Tensor, *, likelihood: Likelihood
) -> Curvature:
    r"""The empirical Fisher matrix: the uncentered second moment of the gradients at the data.

    .. math:: \tilde F=\frac1n\sum_ig_ig_i^\top,\qquad g_i=-\nabla_\theta\log p(y_i\mid f(x_i))

    Args:
        module: as for ``fisher_matrix``.
        x: the inputs (n, ...), one example each.
        y: targets of the data.
        likelihood: as for ``fisher_matrix``.

    Returns:
        The matrix, as a ``Curvature`` with one row for each example.

    Raises:
        ValueError: as for ``fisher_matrix``; targets that do not fit, such as labels out of range.

    Chapter: def-fisher-matrices

    References: Kunstner, Balles and Hennig (2019), equation 5.

    >>> import torch
    >>> from nodes_tutorial.generalization import empirical_fisher, gaussian
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> torch.nn.init.zeros_(line.weight).shape
    torch.Size([1, 1])
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]])
    >>> empirical_fisher(line, x, y, likelihood=gaussian()).matrix()
    tensor([[2.]])
    """
    rows = Rows(module, x)
    f = rows.outputs.detach()
    likelihood.check(f, y)
    slope = grad(lambda f: likelihood.loss(f, y).sum())(f)
    return Curvature(rows, slope.unsqueeze(2))


def gauss_newton(module: nn.Module, x: Tensor, y: Tensor, *, likelihood: Likelihood) -> Curvature:
    r"""The generalized Gauss–Newton matrix: the Hessian without the curvature of the network.

    .. math:: G=\frac1n\sum_iJ_i^\top\,\nabla_f^2\bigl(-\log p(y_i\mid f_i)\bigr)\,J_i

    Args:
        module: as for ``fisher_matrix``.
        x: the inputs (n, ...), one example each.
        y: targets of the data.
        likelihood: as for ``fisher_matrix``.

    Returns:
        The matrix, as a ``Curvature``.

    Raises:
        ValueError: as for ``empirical_fisher``.
        IndefiniteError: the loss of an output is not convex, so that G need not be a sum of
            squares; ``linalg.ggn`` has its products.

    Chapter: def-fisher-matrices

    References: Kunstner, Balles and Hennig (2019), equation 7; Martens (2020), section 8.

    >>> import torch
    >>> from nodes_tutorial.generalization import bernoulli, gauss_newton
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> torch.nn.init.zeros_(line.weight).shape
    torch.Size([1, 1])
    >>> x, y = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    >>> gauss_newton(line, x, y, likelihood=bernoulli()).matrix()
    tensor([[1.]])
    """
    rows = Rows(module, x)
    f = rows.outputs.detach()
    likelihood.check(f, y)

    def of_row(f: Tensor, y: Tensor) -> Tensor:
        return likelihood.loss(f.unsqueeze(0), y.unsqueeze(0))[0]

    curvature = vmap(hessian(of_row))(f, y)
    values, vectors = torch.linalg.eigh(curvature)
    slack = 10 * torch.finfo(f.dtype).eps * values.abs().amax(1, keepdim=True)
    if (values < -slack).any():
        worst = int(values[:, 0].argmin())
        raise IndefiniteError(
            "likelihood must have a loss that is convex in the outputs, got a curvature of "
            f"{float(values[worst, 0]):.3g} at example {worst}"
        )
    return Curvature(rows, vectors * values.clamp(min=0).sqrt().unsqueeze(1))
