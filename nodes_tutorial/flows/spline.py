"""Neural splines: monotone maps of an interval made of quotients of parabolas."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.checks import check_count, check_number
from nodes_tutorial.flows.density import StandardNormal
from nodes_tutorial.flows.flow import Flow, Transform
from nodes_tutorial.flows.linear import stack_layers
from nodes_tutorial.flows.masks import Coupling, conditioner, least_dim

_LEAST = 1e-3  # smallest share of a bin, and smallest slope at a knot
_UNIT = math.log(math.expm1(1 - _LEAST))  # what softplus takes to 1 - _LEAST


def rational_quadratic(
    x: Float[Tensor, "*batch"],
    parameters: Float[Tensor, "*batch k"],
    bound: float | int = 5.0,
    inverse: bool = False,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""A monotone spline of [-B, B] onto itself, continued by the identity.

    In the bin from knot :math:`(x_j, y_j)` to the next, of width :math:`\Delta` and height h, with
    :math:`\xi=(x-x_j)/\Delta`, mean slope :math:`s=h/\Delta` and slopes :math:`\delta_j` at knots,

    .. math:: y = y_j + h\,\frac{s\xi^2 + \delta_j\xi(1-\xi)}{V}, \qquad
        \frac{dy}{dx} = \frac{s^2\bigl(\delta_{j+1}\xi^2+2s\xi(1-\xi)+\delta_j(1-\xi)^2\bigr)}{V^2},
        \qquad V = s + (\delta_j+\delta_{j+1}-2s)\,\xi(1-\xi)

    Widths and heights are shares of 2B by a softmax, inner slopes a softplus; the slope at both
    ends is 1, as outside. Parameters of zero give the identity.

    Args:
        x: the numbers, each with a spline of its own; or values of the spline.
        parameters: for each number K for widths, K for heights and K - 1 for inner slopes.
        bound: the bound B, positive.
        inverse: solve for x instead, by the quadratic formula that does not cancel.

    Returns:
        The values, and the logarithms of the slope of the map that was applied.

    Raises:
        TypeError: ``bound`` is no number.
        ValueError: ``bound`` not positive, or a number of parameters that is not 3K - 1.

    Chapter: thm-conditional-spline

    References: Durkan, Bekasov, Murray and Papamakarios (2019), section 3.1; Gregory and Delbourgo
        (1982).

    >>> import torch
    >>> from nodes_tutorial.flows import rational_quadratic
    >>> y, log_slope = rational_quadratic(torch.tensor([0.5, 7.0]), torch.zeros(2, 8))
    >>> y
    tensor([0.5000, 7.0000])
    """
    bound = check_number("bound", bound, "a positive number", lambda b: 0 < b < math.inf)
    y, slope = _spline(x, parameters, bound, inverse, True)
    return y, -slope.log() if inverse else slope.log()


def _spline(
    x: Tensor, parameters: Tensor, bound: float, inverse: bool, with_slope: bool
) -> tuple[Tensor, Tensor]:
    """Values, and the slopes of the spline itself in both directions; ones if not wanted."""
    bins, rest = divmod(parameters.shape[-1] + 1, 3)
    if rest or bins < 1:
        raise ValueError(f"parameters must be 3 K - 1 for each number, got {parameters.shape[-1]}")
    u = (x.clamp(-bound, bound) + bound) / (2 * bound)  # all knots lie in [0, 1]
    shares = parameters[..., : 2 * bins].unflatten(-1, (2, bins)).softmax(-1)
    ends, scale = shares.cumsum(-1), 1 - bins * _LEAST  # the least share of a bin comes in late
    steps = _LEAST * torch.arange(1, bins, dtype=ends.dtype, device=ends.device)
    knots = torch.add(steps, ends[..., int(inverse), :-1].detach(), alpha=scale)
    bin_ = (u.unsqueeze(-1) >= knots).sum(-1, keepdim=True)
    both = bin_.unsqueeze(-2).expand(*x.shape, 2, 1)
    size = scale * shares.gather(-1, both).squeeze(-1) + _LEAST
    end = scale * ends.gather(-1, both).squeeze(-1) + _LEAST * (bin_ + 1).to(ends.dtype)
    (w, h), (x0, y0) = size.unbind(-1), (end - size).unbind(-1)
    slopes = F.pad(parameters[..., 2 * bins :], (1, 1))  # 0 stands for the slope 1
    slopes = F.softplus(slopes.gather(-1, torch.cat([bin_, bin_ + 1], -1)) + _UNIT) + _LEAST
    d0, d1 = slopes.unbind(-1)
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        eta = (u - y0) / h
        b = d0 - eta * bend
        root = (b * b + 4 * eta * s * (s - d0 + eta * bend)).clamp_min(0).sqrt()
        xi = 2 * eta * s / (b + root)
        y = x0 + w * xi
    else:
        xi = (u - x0) / w
    mixed = xi * (1 - xi)
    v = s + bend * mixed
    if not inverse:
        y = y0 + h * (s * xi * xi + d0 * mixed) / v
    outside = (x.abs() > bound) & (w == w)  # a NaN is not hidden
    y = torch.where(outside, x, 2 * bound * y - bound)
    if not with_slope:
        return y, torch.ones_like(y)
    slope = (s / v).square() * (d1 * xi * xi + 2 * s * mixed + d0 * (1 - xi).square())
    return y, torch.where(outside, 1.0, slope)


class SplineCoupling(Coupling):
    r"""Move each entry of one part by a spline, as the other part and the context say.

    .. math:: z_A = x_A, \qquad z_B = g\bigl(x_B;\ \theta(x_A, c)\bigr), \qquad
        \log\Bigl|\det\frac{\partial z}{\partial x}\Bigr| = \sum_i \log g'(x_{B,i})

    From data to noise the spline g is evaluated, from noise to data it is inverted.

    Args:
        mask: true on A, the part that is kept; it may keep nothing if there is a context.
        net: gets A, and after it the context, and returns 3K - 1 numbers for each entry of B.
        bound: beyond [-B, B] the map is the identity.
        context: entries of the context; 0 for none.

    Raises:
        TypeError: ``bound`` is no number, or ``context`` is not an integer.
        ValueError: as for ``AffineCoupling``.

    Chapter: thm-conditional-spline

    References: Durkan, Bekasov, Murray and Papamakarios (2019), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.flows import SplineCoupling, half_mask
    >>> from nodes_tutorial.nets import MLP
    >>> layer = SplineCoupling(half_mask(2), MLP([1, 8, 3 * 4 - 1]))
    >>> x, ladj = layer(torch.tensor([[1.0, 2.0]]))
    >>> x[0, 0].item(), ladj.shape
    (1.0, torch.Size([1]))
    """

    def __init__(
        self,
        mask: Bool[Tensor, " dim"],
        net: nn.Module,
        *,
        bound: float | int = 5.0,
        context: int = 0,
    ) -> None:
        super().__init__(mask, net, context=context)
        self.bound = check_number("bound", bound, "a positive number", lambda b: 0 < b < math.inf)

    def forward(
        self, z: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map noise to data: solve for the point of the spline."""
        return self._move(z, context, inverse=True)

    def inverse(
        self, x: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map data to noise: evaluate the spline."""
        return self._move(x, context, inverse=False)

    def push(
        self, z: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """``forward`` without the slopes."""
        a, b = self.split(z)
        return self.merge(a, _spline(b, self._theta(a, b, context), self.bound, True, False)[0])

    def _move(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        a, b = self.split(x)
        parameters = self._theta(a, b, context)
        b, log_slope = rational_quadratic(b, parameters, self.bound, inverse)
        return self.merge(a, b), log_slope.sum(-1)

    def _theta(self, a: Tensor, b: Tensor, context: Tensor | None) -> Tensor:
        return self.values(a, context).unflatten(-1, (b.shape[-1], -1))


class NSF(Flow):
    r"""Neural spline flow: spline couplings, with the halves that are kept taking turns.

    Outside of :math:`[-B, B]^d` the flow is the identity, so the data should be of unit size.

    Args:
        dim: number of features, at least 2; with a context at least 1.
        layers: number of couplings, at least 2: with one, half of the features stay normal.
        hidden: width of each hidden layer of the networks.
        bins: number K of bins of a spline, at least 2.
        activation: a key of ``nets.ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        actnorm: whether an ``ActNorm`` follows each coupling; see ``data_init``.
        bound: the bound B, positive.
        context: entries of the context; 0 for a flow that takes none.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``dim``, ``layers``, ``bins`` or ``context`` is not an integer, or
            ``generator`` is not a generator.
        ValueError: one of them too small, or ``bound`` not positive.

    Chapter: thm-conditional-spline

    References: Durkan, Bekasov, Murray and Papamakarios (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.flows import NSF
    >>> flow = NSF(1, layers=2, context=3)
    >>> flow.log_prob(torch.zeros(5, 1), torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        dim: int,
        layers: int = 4,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        actnorm: bool = False,
        bound: float | int = 5.0,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        like = {"dtype": dtype, "device": device}
        check_count("dim", dim, least=least_dim(context))
        outputs = 3 * check_count("bins", bins, least=2) - 1

        def layer(i: int) -> Transform:
            how = (dim, i, hidden, activation, generator, outputs, context)
            mask, net = conditioner(*how, **like)
            return SplineCoupling(mask, net, bound=bound, context=context)

        transforms = stack_layers(layer, layers, 2, dim, actnorm, **like)
        super().__init__(StandardNormal(dim, **like), transforms)
