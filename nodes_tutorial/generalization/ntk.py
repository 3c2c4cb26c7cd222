"""The neural tangent kernel of a network: products with it, and the kernel itself."""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from nodes_tutorial.checks import check_filled
from nodes_tutorial.generalization.layer_rows import LayerRows, layer_gram


class TangentKernel:
    r"""The kernel :math:`k_\theta(x_i,y_j)=J_\theta(x_i)J_\theta(y_j)^\top` at two sets of inputs.

    A network with o outputs has an o × o matrix for each pair. :math:`J_\theta` is the Jacobian of
    the outputs in the trainable parameters.

    Args:
        module: from inputs to rows of outputs; each example alone.
        x: inputs (n, ...), one example each, numbers or indices as the module takes them.
        y: a second set (m, ...); None means x.
        params: values of parameters by name, in place of the module's own.

    Attributes:
        route: "layers" where all parameters belong to linear and convolution layers, so that the
            kernel comes from products of inputs and products of covectors, and no Jacobian of the
            whole network is formed; "rows" where all rows of the Jacobian are formed.
        reason: why the route is "rows"; empty otherwise.

    Raises:
        ValueError: no examples, examples of ``y`` of another shape or dtype, unknown names or
            other shapes in ``params``; a module without trainable parameters, whose outputs are
            no rows, or that mixes examples, as batch normalization in training does.

    Chapter: def-ntk-kernel

    References: Jacot, Gabriel and Hongler (2018), section 4; Novak, Sohl-Dickstein and Schoenholz
    (2022), section 3.

    >>> import torch
    >>> from nodes_tutorial.generalization import TangentKernel
    >>> line = torch.nn.Linear(1, 1)
    >>> kernel = TangentKernel(line, torch.tensor([[1.0], [3.0]]))
    >>> kernel.product(torch.tensor([[1.0], [0.0]])), kernel.route
    (tensor([[2.],
            [4.]]), 'layers')
    """

    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        params: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_filled("x", x)
        if y is not None:
            check_filled("y", y)
            if y.shape[1:] != x.shape[1:] or y.dtype != x.dtype:
                raise ValueError(
                    f"y must hold examples like those of x, {x.dtype} of shape "
                    f"{tuple(x.shape[1:])}, got {y.dtype} of shape {tuple(y.shape[1:])}"
                )
        if params is not None:
            module = _with_values(module, params)
        self._mine = LayerRows(module, x)
        self._other = self._mine if y is None else LayerRows(module, y)
        self.outputs = self._mine.outputs.shape[1]
        self.reason = self._mine.reason or self._other.reason
        self.route = "rows" if self.reason else "layers"

    @torch.no_grad()
    def product(self, v: Float[Tensor, "m out"]) -> Float[Tensor, "n out"]:
        r"""The products :math:`\sum_jk(x_i,y_j)v_j`, by one sweep back and one forward.

        Args:
            v: a vector at each example of the second set.

        Raises:
            ValueError: another shape.
        """
        wanted = (len(self._other.x), self.outputs)
        if v.shape != wanted:
            raise ValueError(f"v must have shape {wanted}, got {tuple(v.shape)}")
        module = self._mine.module
        pairs = zip(self._mine.names, self._mine.parameters, strict=True)
        weights = {name: p.detach() for name, p in pairs}

        def at(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
            return functional_call(module, weights, (x,))

        step = vjp(lambda w: at(self._other.x, w), weights)[1](v)[0]
        return jvp(lambda w: at(self._mine.x, w), (weights,), (step,))[1]

    @torch.no_grad()
    def matrix(self) -> Float[Tensor, "n m out out2"]:
        """The whole kernel."""
        mine = _units(self._mine.outputs)
        same = self._other is self._mine
        other = mine if same else _units(self._other.outputs)
        if self.route == "rows":
            left = self._mine.every(mine)
            right = left if same else self._other.every(other)
            return torch.einsum("nod,mpd->nmop", left, right)
        total: Tensor | None = None
        layers = self._mine.layers(mine)
        others = layers if same else self._other.layers(other)
        trains = {id(p) for p in self._mine.parameters}
        for a, b in zip(layers, others, strict=True):
            first = self._mine.features(a), self._mine.covectors(a)
            second = first if same else (self._other.features(b), self._other.covectors(b))
            bias = a.module.bias is not None and id(a.module.bias) in trains
            part = layer_gram(first, second, weight=id(a.module.weight) in trains, bias=bias)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.transpose(1, 2)


def empirical_ntk(
    module: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    params: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "n m out out2"]:
    r"""The neural tangent kernel :math:`J_\theta(x)J_\theta(y)^\top` of a network.

    ``TangentKernel`` has products with it where it is too large, and says how it is computed.

    Args:
        module: as for ``TangentKernel``.
        x: inputs (n, ...), one example each.
        y: a second set (m, ...); None means x.
        params: values of parameters by name, in place of the module's own.

    Returns:
        The kernel, of shape (n, m, out, out). Entry (i, j, o, p) is the product of two gradients,
        of output o at x_i and of output p at y_j.

    Raises:
        ValueError: as for ``TangentKernel``.

    Chapter: def-ntk-kernel

    References: Jacot, Gabriel and Hongler (2018), section 4.

    >>> import torch
    >>> from nodes_tutorial.generalization import empirical_ntk
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> empirical_ntk(torch.nn.Linear(1, 1), x)[..., 0, 0]
    tensor([[ 2.,  4.],
            [ 4., 10.]])
    """
    return TangentKernel(module, x, y, params=params).matrix()


def _units(outputs: Tensor) -> Float[Tensor, "n out out"]:
    n, out = outputs.shape
    return torch.eye(out, dtype=outputs.dtype, device=outputs.device).expand(n, out, out)


def _with_values(module: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module with other values of its parameters."""
    own = dict(module.named_parameters())
    for name, value in params.items():
        if name not in own:
            raise ValueError(f"params must have names of {sorted(own)}, got {name!r}")
        if value.shape != own[name].shape:
            raise ValueError(
                f"params must have shape {tuple(own[name].shape)} for {name!r}, "
                f"got {tuple(value.shape)}"
            )
    module = copy.deepcopy(module)
    for name, parameter in module.named_parameters():
        if name in params:
            parameter.data = params[name].detach()
    return module
