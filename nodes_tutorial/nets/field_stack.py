"""Fields of one shape side by side, so that several seeds train in one loop."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.nets.mlp import TimeMLP


class FieldStack(nn.Module):
    r"""Fields with tanh side by side; the rows of a batch are shared out among them in blocks.

    With S fields and a batch of S·n rows, the first n rows belong to the first field, the next n to
    the second, and so on. Each field moves its own rows only. So a loss that is the *sum* over the
    fields trains every one of them as if it were alone, with one batched product a layer.

    Args:
        fields: ``nets.TimeMLP`` of the same sizes with tanh between the layers; their weights
            are copied.

    Raises:
        ValueError: no field, fields of different sizes, or another activation.

    Chapter: obs-ffjord-probe

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 4.

    >>> import torch
    >>> from nodes_tutorial.nets import FieldStack, TimeMLP
    >>> rng = lambda seed: torch.Generator().manual_seed(seed)
    >>> stack = FieldStack([TimeMLP(2, [8], generator=rng(s)) for s in range(3)])
    >>> stack(torch.tensor(0.5), torch.zeros(12, 2)).shape  # four rows for each of the three
    torch.Size([12, 2])
    """

    def __init__(self, fields: Sequence[TimeMLP]) -> None:
        super().__init__()
        layers = [field.mlp.layers[::2] for field in fields]
        shapes = {tuple(tuple(layer.weight.shape) for layer in own) for own in layers}
        if len(shapes) != 1:
            raise ValueError(f"fields must have one and the same sizes, got {sorted(shapes)}")
        if not all(isinstance(a, nn.Tanh) for field in fields for a in field.mlp.layers[1::2]):
            raise ValueError("fields must have tanh between their layers")
        self._fields = [copy.deepcopy(field).requires_grad_(False) for field in fields]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for same in zip(*layers, strict=True):
            weight = torch.stack([layer.weight.detach().mT for layer in same])
            bias = torch.stack([layer.bias.detach() for layer in same]).unsqueeze(1)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(
        self, t: Float[Tensor, "*times"], x: Float[Tensor, "rows dim"]
    ) -> Float[Tensor, "rows dim"]:
        """Evaluate each field at its rows; ``t`` is a number, or one for each row."""
        h, _ = self._first(t, x)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            h = torch.baddbmm(bias, h.tanh(), weight)
        return h.reshape(x.shape)

    def value_and_tangents(
        self,
        t: Float[Tensor, "*times"],
        x: Float[Tensor, "rows dim"],
        v: Float[Tensor, "k rows dim"] | None = None,
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "tangents rows dim"]]:
        """The fields and the products of their Jacobians; see ``flows.field.HasTangents``."""
        h, first = self._first(t, x)
        if v is None:  # unit vectors: their tangents are the rows of the first matrix
            p = first.unsqueeze(2).unbind(1)
        else:
            p = tuple(torch.bmm(e.view(len(h), -1, x.shape[-1]), first) for e in v)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            y = h.tanh()
            slope = 1 - y * y
            p = tuple(torch.bmm(slope * q, weight) for q in p)
            h = torch.baddbmm(bias, y, weight)
        return h.reshape(x.shape), torch.stack([q.reshape(x.shape) for q in p])

    def clip_gradients(self, limit: float) -> None:
        """Scale down the gradient of each field whose norm is above ``limit``."""
        grads = [p.grad for p in self.parameters()]
        norms = sum(g.square().flatten(1).sum(1) for g in grads).sqrt()
        factor = (limit / norms.clamp(min=limit)).view(-1, 1, 1)
        for grad in grads:
            grad.mul_(factor)

    def unstack(self) -> list[TimeMLP]:
        """Each field by itself, with the weights of now and no graph."""
        for i, field in enumerate(self._fields):
            for layer, weight, bias in zip(
                field.mlp.layers[::2], self.weights, self.biases, strict=True
            ):
                layer.weight.copy_(weight[i].detach().mT)
                layer.bias.copy_(bias[i, 0].detach())
        return copy.deepcopy(self._fields)

    def _first(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the first activation, and the matrix that x meets."""
        weight, slope = self.weights[0].split([x.shape[-1], 1], 1)
        t = t.to(x.dtype)
        t = t.view(len(weight), -1, 1) if t.dim() else t
        rows = x.reshape(len(weight), -1, x.shape[-1])
        return torch.baddbmm(self.biases[0] + t * slope, rows, weight), weight
