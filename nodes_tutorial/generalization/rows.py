"""The gradients of single examples: as matrices of layers where these suffice, or one by one."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, vjp, vmap


class Layer(NamedTuple):
    """A linear layer, what went in, and what is pulled back to its output."""

    module: nn.Linear
    inputs: Float[Tensor, "n inputs"]
    covectors: Float[Tensor, "k n outputs"]


class Rows:
    r"""The vectors :math:`J_i^\top s_{ik}` for covectors s of the outputs, one row each.

    With ``nn.Linear`` layers alone, called once each on rows and without a parameter in common, a
    layer's part of a row is :math:`\delta_{ik}\otimes(a_i,1)`, and what is wanted of the rows comes
    from the matrices of :math:`\delta` and a: no row is formed. This is ``route = "layers"``. For
    any other module the rows are formed by ``vmap``, ``route = "examples"``.

    Args:
        module: outputs of one example must not depend on others.
        x: the inputs (n, ...), one example each.

    Raises:
        ValueError: no trainable parameter, no examples, outputs that are no rows, or an output
            that changes with the other examples, as with batch normalization in training.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.module, self.x = module, x
        named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not named or len(x) == 0:
            raise ValueError("module must have trainable parameters and x at least one example")
        self.names, self.parameters = list(named), list(named.values())
        self.size = sum(p.numel() for p in self.parameters)
        self.calls: list[tuple[nn.Linear, Tensor, GradientEdge]] = []
        self.versions: list[tuple[Tensor, int]] = []
        self.outputs = self._forward()
        self._check_independent()
        owned = [id(p) for layer, _, _ in self.calls for p in layer.parameters()]
        once = all(owned.count(id(p)) == 1 for p in self.parameters)
        plain = all(a.ndim == 2 and len(a) == len(x) for _, a, _ in self.calls)
        kept = all(a._version == version for a, version in self.versions)
        self.route = "layers" if once and plain and kept else "examples"

    def _forward(self) -> Float[Tensor, "n out"]:
        def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # the edge stays valid when an activation overwrites the output
            self.calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))
            self.versions.append((inputs[0], inputs[0]._version))

        linear = [m for m in self.module.modules() if type(m) is nn.Linear]
        hooks = [m.register_forward_hook(note) for m in linear if any(map(_trains, m.parameters()))]
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

    @torch.no_grad()
    def _check_independent(self) -> None:
        if len(self.x) == 1:
            return
        together = self.outputs[:1].detach()
        try:
            alone = self.module(self.x[:1])
        except ValueError as error:  # batch normalization wants more than one value a channel
            raise ValueError(f"module must take examples one by one: {error}") from error
        scale = torch.finfo(together.dtype).eps ** 0.5 * (1 + together.abs().max())
        if not (alone - together).abs().max() <= scale:
            raise ValueError(
                "module must treat each example alone, got an output that depends on the others; "
                "batch normalization wants module.eval()"
            )

    def named(self, vector: Float[Tensor, " size"]) -> dict[str, Tensor]:
        """Parts of a vector in the shapes of the parameters.

        Args:
            vector: all parameters in the order of ``module.parameters()``.
        """
        parts = vector.split([p.numel() for p in self.parameters])
        pairs = zip(self.names, self.parameters, parts, strict=True)
        return {name: part.view(p.shape) for name, p, part in pairs}

    def layers(self, s: Float[Tensor, "n out k"]) -> list[Layer]:
        """The covectors at every layer, by one backward pass, for all k at once.

        Args:
            s: covectors of the outputs.
        """
        edges = [edge for _, _, edge in self.calls]
        if s.shape[2] == 1:
            found = torch.autograd.grad(self.outputs, edges, s[..., 0], retain_graph=True)
            found = [part.unsqueeze(0) for part in found]
        else:
            found = torch.autograd.grad(
                self.outputs,
                edges,
                s.movedim(2, 0).contiguous(),
                retain_graph=True,
                is_grads_batched=True,
            )
        return [Layer(m, a, d) for (m, a, _), d in zip(self.calls, found, strict=True)]

    def every(self, s: Float[Tensor, "n out k"]) -> Float[Tensor, "n k size"]:
        """All rows, formed.

        Args:
            s: covectors of the outputs.
        """
        if self.route == "layers":
            parts: dict[int, Tensor] = {}
            for layer, a, d in self.layers(s):
                d = d.movedim(0, 1)
                parts[id(layer.weight)] = (d.unsqueeze(3) * a[:, None, None]).flatten(2)
                if layer.bias is not None:
                    parts[id(layer.bias)] = d
            return torch.cat([parts[id(p)] for p in self.parameters], 2)
        weights = {name: p.detach() for name, p in zip(self.names, self.parameters, strict=True)}

        def of_example(x: Tensor, s: Tensor) -> Tensor:
            def out(weights: dict[str, Tensor]) -> Tensor:
                return functional_call(self.module, weights, (x.unsqueeze(0),))[0]

            pull = vjp(out, weights)[1]
            return vmap(lambda c: flat(pull(c)[0].values()))(s.mT)

        return vmap(of_example)(self.x, s)


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " size"]:
    """One vector of all entries.

    Args:
        tensors: parts in the order of the parameters.
    """
    return torch.cat([part.flatten() for part in tensors])


def _trains(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad
