"""A recurrent network that goes on with a sequence by reading its own predictions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.nets import MLP

__all__ = ["LSTMForecast"]


class LSTMForecast(nn.Module):
    """Predicts each observation from those before it; beyond the data it reads its own output.

    Args:
        observed: entries of an observation.
        hidden: width of the recurrent state.
        gain: factor of the observations where they are read.
        generator: source of the initial weights; None means PyTorch's global one.
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
        gain: float | int = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(observed, hidden) < 1:
            raise ValueError(f"sizes must be at least 1, got {observed} and {hidden}")
        kind = {"dtype": dtype, "device": device}
        self.gain = gain
        self.embed = MLP([observed, hidden], generator=generator, **kind)
        self.cell = draw_lstm(nn.LSTM(hidden, hidden, batch_first=True, **kind), generator)
        self.read = MLP([hidden, 64, observed], generator=generator, **kind)

    def forward(
        self, x: Float[Tensor, "batch times observed"]
    ) -> Float[Tensor, "batch times observed"]:
        """At each time the prediction of the next observation."""
        return self._run(x, None)[0]

    def loss(self, x: Float[Tensor, "batch times observed"]) -> Float[Tensor, ""]:
        """Mean squared error of the predictions one step ahead."""
        return (self(x[:, :-1]) - x[:, 1:]).square().mean()

    def extend(
        self, x: Float[Tensor, "batch seen observed"], steps: int
    ) -> Float[Tensor, "batch times observed"]:
        """One-step predictions of x after its first entry, then ``steps`` more from its own output.

        Args:
            x: what is seen.
            steps: how many observations to go on.
        """
        found, state = self._run(x, None)
        path = [x[:, :1], found]
        for _ in range(steps - 1):
            found, state = self._run(found[:, -1:], state)
            path.append(found)
        return torch.cat(path, 1)

    def _run(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple]:
        h, state = self.cell(torch.tanh(self.embed(self.gain * x)), state)
        return self.read(h), state


def draw_lstm(lstm: nn.LSTM, generator: torch.Generator | None) -> nn.LSTM:
    """Redraw all weights, uniform on plus or minus one over the root of the width.

    Args:
        lstm: changed in place, and returned.
        generator: source of the numbers; None means PyTorch's global one.
    """
    bound = lstm.hidden_size**-0.5
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.uniform_(-bound, bound, generator=generator)
    return lstm
