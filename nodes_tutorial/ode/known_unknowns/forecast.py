"""A recurrent network that goes on with a sequence by reading its own predictions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.nets.stack import Generators, Stack, sources
from nodes_tutorial.ode.known_unknowns.lstm import LSTM, State

__all__ = ["LSTMForecast"]


class LSTMForecast(nn.Module):
    """Predicts each observation from those before it; beyond the data it reads its own output.

    Args:
        observed: entries of an observation.
        hidden: width of the recurrent state.
        center: subtracted from the observations where they are read, a number or one an entry.
        gain: factor after that; signals should come to the recurrent network at size one.
        generator: source of the initial weights, or one for each of several networks, for which
            results have an axis in front; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: a size below 1.

    Chapter: def-unknowns-model

    References: Linial, Ravid, Eytan and Shalit (2021), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import LSTMForecast
    >>> net = LSTMForecast(3, 8, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(2, 5, 3)).shape, net.extend(torch.zeros(2, 5, 3), 4).shape
    (torch.Size([2, 5, 3]), torch.Size([2, 9, 3]))
    """

    def __init__(
        self,
        observed: int,
        hidden: int = 64,
        *,
        center: float | int | Float[Tensor, " observed"] = 0.0,
        gain: float | int | Float[Tensor, " observed"] = 1.0,
        generator: Generators = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(observed, hidden) < 1:
            raise ValueError(f"sizes must be at least 1, got {observed} and {hidden}")
        kind = {"dtype": dtype, "device": device}
        for name, value in (("center", center), ("gain", gain)):
            self.register_buffer(name, torch.as_tensor(value, **kind), persistent=False)
        generators, self.copies = sources(generator)
        self.embed = Stack([observed, hidden], generators, **kind)
        self.cell = LSTM(hidden, hidden, generators, **kind)
        self.read = Stack([hidden, 64, observed], generators, **kind)

    def forward(
        self, x: Float[Tensor, "batch times observed"]
    ) -> Float[Tensor, "*copies batch times observed"]:
        """Predict the next observation at each time."""
        found = self._run(x[None], None)[0]
        return found if self.copies else found.squeeze(0)

    def loss(self, x: Float[Tensor, "batch times observed"]) -> Float[Tensor, "*copies"]:
        """Mean squared error of the predictions one step ahead."""
        return (self(x[:, :-1]) - x[:, 1:]).square().mean((-3, -2, -1))

    def extend(
        self, x: Float[Tensor, "batch seen observed"], steps: int
    ) -> Float[Tensor, "*copies batch times observed"]:
        """One-step predictions of x after its first entry, then ``steps`` more from its own output.

        Args:
            x: what is seen.
            steps: how many observations to go on.
        """
        found, state = self._run(x[None], None)
        path = [x[:, :1].expand_as(found[:, :, :1]), found]
        for _ in range(steps - 1):
            found, state = self._run(found[:, :, -1:], state)
            path.append(found)
        out = torch.cat(path, 2)
        return out if self.copies else out.squeeze(0)

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        rows = self.embed((self.gain * (x - self.center)).flatten(1, 2))
        h, state = self.cell(torch.tanh(rows).unflatten(1, x.shape[1:3]), state)
        return self.read(h.flatten(1, 2)).unflatten(1, x.shape[1:3]), state
