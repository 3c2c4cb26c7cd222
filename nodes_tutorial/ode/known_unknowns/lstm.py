"""Long short-term memory for several networks side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.nets.stack import Stack

__all__ = ["LSTM"]

State = tuple[Tensor, Tensor]


class LSTM(nn.Module):
    r"""A recurrent network with a gated memory c, one for each entry of an axis of its input.

    .. math:: (i, f, o) = \sigma(Wx + Uh + b), \quad g = \tanh(W_gx + U_gh + b_g), \quad
        c' = fc + ig, \quad h' = o\tanh c'

    The products with all inputs are one matrix product before the loop over times.

    Args:
        inputs: size of x.
        hidden: size of h and of c.
        generators: source of the initial weights of each network.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: def-unknowns-model

    References: Hochreiter and Schmidhuber (1997).

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns.lstm import LSTM
    >>> net = LSTM(3, 5, [torch.Generator().manual_seed(s) for s in range(2)])
    >>> h, (last, memory) = net(torch.zeros(2, 7, 4, 3))
    >>> h.shape, last.shape
    (torch.Size([2, 7, 4, 5]), torch.Size([2, 7, 5]))
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        generators: Sequence[torch.Generator | None],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        kind = {"dtype": dtype, "device": device}
        self.hidden = hidden
        self.inputs = Stack([inputs, 4 * hidden], generators, **kind)
        self.state = Stack([hidden, 4 * hidden], generators, **kind)

    def forward(
        self, x: Float[Tensor, "copies n times inputs"], state: State | None = None
    ) -> tuple[Float[Tensor, "copies n times hidden"], State]:
        """The state h after each input, and the last h and c.

        Args:
            x: inputs, read in the order of their times.
            state: h and c before the first; None means zero.
        """
        copies, n, times, _ = x.shape
        gates = self.inputs(x.flatten(1, 2)).unflatten(1, (n, times))
        zero = gates.new_zeros((copies, n, self.hidden))
        h, c = (zero, zero) if state is None else state
        states, sizes = [], [3 * self.hidden, self.hidden]
        for here in gates.unbind(2):
            gated, new = (here + self.state(h)).split(sizes, -1)
            i, f, o = torch.sigmoid(gated).chunk(3, -1)
            c = torch.addcmul(f * c, i, torch.tanh(new))
            h = o * torch.tanh(c)
            states.append(h)
        return torch.stack(states, 2), (h, c)
