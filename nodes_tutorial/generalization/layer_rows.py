"""Layers of a network as matrices: what went in, what is pulled back, and their Gram matrix."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.functional import unfold

from nodes_tutorial.generalization.rows import Layer, Rows

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LayerRows(Rows):
    r"""Rows :math:`J_i^\top s` of networks with linear and convolution layers.

    At each position t of its output such a layer takes features :math:`u_t`: the inputs of a
    linear layer, the patch below a kernel. With the covector :math:`\delta_t` at that position,
    its part of a row is :math:`\sum_t\delta_t\otimes u_t`, and of the bias
    :math:`\sum_t\delta_t`.

    Args:
        module: outputs of one example must not depend on others.
        x: the inputs (n, ...), one example each.

    Attributes:
        reason: why the rows must be formed by ``vmap``; empty where the layers suffice.

    Raises:
        ValueError: as for ``Rows``.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__(module, x)
        self.route = "examples"  # the layers of ``Rows.every`` are linear ones alone
        self.reason = self._reason()

    def _forward(self) -> Float[Tensor, "n out"]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # the edge stays valid when an activation overwrites the output
            call = cast(nn.Linear, layer), inputs[0].detach(), get_gradient_edge(output)
            self.calls.append(call)
            self.versions.append((inputs[0], inputs[0]._version))

        hooks = [
            layer.register_forward_hook(note)
            for layer in self.module.modules()
            if type(layer) in KINDS and any(p.requires_grad for p in layer.parameters())
        ]
        try:
            with torch.enable_grad():
                outputs = self.module(self.x)
        finally:
            for hook in hooks:
                hook.remove()
        if outputs.ndim != 2 or len(outputs) != len(self.x):
            raise ValueError(
                f"module must return one row of outputs for each of the {len(self.x)} examples, "
                f"got shape {tuple(outputs.shape)}"
            )
        return outputs

    def _reason(self) -> str:
        layers = [layer for layer, _, _ in self.calls]
        owned = [id(p) for layer in layers for p in layer.parameters() if p.requires_grad]
        for name, parameter in zip(self.names, self.parameters, strict=True):
            uses = owned.count(id(parameter))
            if uses == 0:
                return f"{name} belongs to no linear or convolution layer"
            if uses > 1:
                return f"{name} is used {uses} times"
        for layer, a, _ in self.calls:
            if len(a) != len(self.x):
                return f"a {type(layer).__name__} mixes the examples with other axes"
            if isinstance(layer, nn.Conv1d | nn.Conv2d):
                if layer.groups > 1 or layer.padding_mode != "zeros":
                    return f"a {type(layer).__name__} has groups or a padding other than zeros"
                if isinstance(layer.padding, str):
                    return f"a {type(layer).__name__} has its padding as a word"
        if any(a._version != version for a, version in self.versions):
            return "the input of a layer is overwritten"
        return ""

    def features(self, layer: Layer) -> Float[Tensor, "n positions features"]:
        """What a layer takes at each position of its output.

        Args:
            layer: one of ``layers``.
        """
        module, a = cast(nn.Module, layer.module), layer.inputs
        if isinstance(module, nn.Linear):
            return a.reshape(len(a), -1, a.shape[-1])
        window = cast(nn.Conv2d, module)
        if isinstance(module, nn.Conv1d):
            a = a.unsqueeze(2)
        return unfold(
            a,
            _pair(window.kernel_size, 1),
            _pair(window.dilation, 1),
            _pair(cast(tuple[int, ...], window.padding), 0),
            _pair(window.stride, 1),
        ).mT

    def covectors(self, layer: Layer) -> Float[Tensor, "n k positions outputs"]:
        """What is pulled back to each position of a layer's output, for all k.

        Args:
            layer: one of ``layers``.
        """
        d = layer.covectors.movedim(0, 1)
        if isinstance(layer.module, nn.Linear):
            return d.reshape(*d.shape[:2], -1, d.shape[-1])
        return d.flatten(3).mT


def layer_gram(
    mine: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], *, weight: bool, bias: bool
) -> Float[Tensor, "n k m l"]:
    r"""One layer's part of the products of all pairs of rows.

    .. math:: \sum_{ts}(\delta_{it}\cdot\delta_{js})\,(u_{it}\cdot u_{js}+1)

    The sum over pairs of positions is taken where it is the shorter way; otherwise the gradients
    :math:`\sum_t\delta_{it}\otimes u_{it}` of this layer are formed.

    Args:
        mine: features (n, positions, features) and covectors (n, k, positions, outputs).
        other: the same of the second set.
        weight: whether the weight is trained.
        bias: whether the bias is.

    Returns:
        The products, of shape (n, k, m, l).

    >>> import torch
    >>> from nodes_tutorial.generalization.layer_rows import layer_gram
    >>> one = torch.full((1, 1, 2), 3.0), torch.full((1, 1, 1, 1), 2.0)
    >>> layer_gram(one, one, weight=True, bias=True)
    tensor([[[[76.]]]])
    """
    (u, d), (v, e) = mine, other
    n, k, positions, outputs = d.shape
    m, other_k, features = len(e), e.shape[1], u.shape[2]
    rows, columns, pairs = n * k, m * other_k, positions * e.shape[2]
    by_pairs = pairs * (n * m * features + rows * columns * (outputs + 1))
    by_rows = outputs * features * (positions * (rows + columns) + rows * columns)
    if pairs == 1 or by_pairs < by_rows:
        both = (d.flatten(0, 2) @ e.flatten(0, 2).mT).view(n, k, positions, m, other_k, -1)
        if weight:
            near = (u.flatten(0, 1) @ v.flatten(0, 1).mT).add_(float(bias))
            both.mul_(near.view(n, 1, positions, m, 1, -1))
        return both.sum((2, 5)) if pairs > 1 else both.view(n, k, m, other_k)
    total = d.new_zeros(rows, columns)
    if weight:
        left = (d.mT @ u.unsqueeze(1)).view(rows, -1)
        right = left if other is mine else (e.mT @ v.unsqueeze(1)).view(columns, -1)
        total += left @ right.mT
    if bias:
        total += d.sum(2).view(rows, -1) @ e.sum(2).view(columns, -1).mT
    return total.view(n, k, m, other_k)


def _pair(size: tuple[int, ...], plain: int) -> tuple[int, ...]:
    """The option of a convolution for two axes, of which one may be new."""
    return (plain,) * (2 - len(size)) + size
