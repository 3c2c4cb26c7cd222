"""One module with other weights for each task, and three ways to compute its tasks.

=============  =====================================================  =========================
``batching``   what it does                                           for
=============  =====================================================  =========================
``"stack"``    each linear layer is one batched product of all tasks  perceptrons
``"vmap"``     ``torch.func.vmap`` over the tasks                     any module without state
``"loop"``     one task after the other                               any module
=============  =====================================================  =========================

All three give the same numbers up to rounding. None chooses: perceptrons are stacked. Other modules
are mapped, but those with convolutions are looped on the CPU, where a convolution with other
weights for each task is a grouped one, and those with built-in batch normalization everywhere.
``benchmarks/meta.py`` measures them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, mse_loss
from torch.overrides import TorchFunctionMode

from nodes_tutorial.implicit.tasks import FlatModule
from nodes_tutorial.nets import ACTIVATIONS, MLP

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Weights = dict[str, Tensor]

BATCHINGS = ("stack", "vmap", "loop")
POINTWISE = (*ACTIVATIONS.values(), nn.GELU, nn.LeakyReLU, nn.Identity)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class BatchedModule(FlatModule):
    """A module whose trainable parameters have one row for each task.

    Args:
        module: the network; frozen parameters and buffers are shared by all tasks.
        batching: how tasks are computed; None chooses.

    Raises:
        TypeError: no module.
        ValueError: no trainable parameter, running statistics in training mode, unknown
            ``batching``, or ``"stack"`` for what is no perceptron.
    """

    def __init__(self, module: nn.Module, batching: str | None = None) -> None:
        super().__init__(module)
        for name, part in module.named_modules():
            if isinstance(part, NORMS) and part.training and part.track_running_stats:
                raise ValueError(
                    f"module must not change while it is differentiated, got {name or 'a module'} "
                    f"with running statistics ({type(part).__name__}) in training mode; "
                    "track_running_stats=False takes the statistics of each batch, eval() the "
                    "running ones"
                )
        layers = _layers(module)
        if batching is None:
            batching = "stack" if layers else self._choice()
        if batching not in BATCHINGS:
            raise ValueError(f"batching must be None or one of {BATCHINGS}, got {batching!r}")
        if batching == "stack" and not layers:
            raise ValueError(
                "batching = 'stack' needs a module of linear layers and pointwise functions in a "
                f"row, got {type(module).__name__}"
            )
        self.batching = batching
        self._layers = layers
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}

    def _choice(self) -> str:
        parts = list(self.module.modules())
        if any(isinstance(part, NORMS) and not part.track_running_stats for part in parts):
            return "loop"
        on_cpu = next(iter(self.parameters.values())).device.type == "cpu"
        return "loop" if on_cpu and any(isinstance(p, CONVOLUTIONS) for p in parts) else "vmap"

    def stacked(self, weights: Weights, x: Tensor) -> Tensor:
        """Outputs of all tasks, a batched product for each linear layer.

        Args:
            weights: parameters, with the tasks along the first axis.
            x: inputs of shape (tasks, points, …, features).
        """
        shape = x.shape[1:-1]
        x = x.flatten(1, -2) if len(shape) > 1 else x
        for layer in self._layers:
            if not isinstance(layer, nn.Linear):
                x = layer(x)
                continue
            weight = self._rows_of(layer.weight, weights, len(x)).mT
            if layer.bias is None:
                x = x @ weight
            else:
                bias = self._rows_of(layer.bias, weights, len(x))
                x = torch.baddbmm(bias[:, None], x, weight)
        return x.unflatten(1, shape) if len(shape) > 1 else x

    def _rows_of(self, own: Tensor, weights: Weights, tasks: int) -> Tensor:
        name = self._names.get(id(own))
        return own.detach().expand(tasks, *own.shape) if name is None else weights[name]

    def call(self, weights: Weights, x: Tensor) -> Tensor:
        """Outputs of one task, whose weights have no axis of tasks."""
        return functional_call(self.module, weights, (x,))

    def outputs(self, weights: Weights, x: Tensor) -> Tensor:
        """Outputs of all tasks."""
        if self.batching == "stack":
            return self.stacked(weights, x)
        if self.batching == "vmap":
            return vmap(self.call)(weights, x)
        return torch.stack([self.call(own, part) for own, part in rows(weights, x)])


def rows(weights: Weights, *data: Tensor) -> Iterator[tuple[Weights, *tuple[Tensor, ...]]]:
    """Weights and data of one task after the other."""
    for i in range(len(data[0])):
        yield {name: part[i] for name, part in weights.items()}, *(part[i] for part in data)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a perceptron in their order; none where the module is something else."""
    if module._forward_hooks or module._forward_pre_hooks:
        return []
    if type(module) is MLP:
        return _layers(module.layers)
    if type(module) is nn.Sequential:
        parts = [_layers(part) for part in module]
        return [layer for part in parts for layer in part] if all(parts) else []
    return [module] if type(module) is nn.Linear or type(module) in POINTWISE else []


class NoBatchNorm(TorchFunctionMode):
    """Refuses batch normalization under ``vmap``, whose second derivatives PyTorch 2.13 gets wrong.

    Raises:
        ValueError: a module normalizes by ``torch.nn.functional.batch_norm``.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("batch_norm", "instance_norm"):
            raise ValueError(
                "batching = 'vmap' with order = 2 must not meet torch.nn.functional."
                f"{func.__name__}, whose second derivatives are wrong there; take 'loop', or "
                "nets.Conv4(norm='batch')"
            )
        return func(*args, **(kwargs or {}))


def default_loss(y: Tensor) -> Loss:
    """Mean squared error for numbers, cross-entropy for classes."""
    return mse_loss if y.is_floating_point() else cross_entropy


def check_batch(name: str, batch: Batch, tasks: int | None = None) -> int:
    """Refuse what are not inputs and targets of the same tasks.

    Args:
        name: name of the argument, for messages.
        batch: inputs and targets, with tasks and points as the first axes.
        tasks: how many there must be; None for any number.

    Returns:
        The number of tasks.

    Raises:
        TypeError: no pair of tensors.
        ValueError: numbers of tasks or of points that differ, no task, or no point.
    """
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise TypeError(f"{name} must be inputs and targets, got {type(batch).__name__}")
    x, y = batch
    for part, tensor in (("inputs", x), ("targets", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} {part} must be a tensor, got {type(tensor).__name__}")
    if x.ndim < 2 or y.ndim < 2 or x.shape[:2] != y.shape[:2] or 0 in x.shape[:2]:
        raise ValueError(
            f"{name} must have the same tasks and points along the first two axes of inputs and "
            f"targets, at least one of each, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if tasks is not None and len(x) != tasks:
        raise ValueError(f"{name} must have as many tasks as support, {tasks}, got {len(x)}")
    return len(x)
