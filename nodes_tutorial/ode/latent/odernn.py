"""ODE-RNN: a hidden state that obeys an equation between observations and jumps at them."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.data.series import Series, compact
from nodes_tutorial.nets.stack import Generators, Stack, sources
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import rk_step
from nodes_tutorial.ode.solvers.tableaus import METHODS


class GRU(nn.Module):
    r"""The update of a gated recurrent unit, for several networks side by side.

    .. math::
        r = \sigma(W_rx + U_rh + b_r), \quad u = \sigma(W_ux + U_uh + b_u), \quad
        c = \tanh(W_cx + b_c + r(U_ch + d_c)), \quad h' = c + u(h - c)

    The three gates are one matrix. ``inputs`` takes all times of a series at once; only the
    product with h waits for the time before.

    Args:
        inputs: size of x.
        hidden: size of h.
        generators: source of the initial weights of each network.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: def-latent-odernn

    References: Cho et al. (2014).

    >>> import torch
    >>> from nodes_tutorial.ode.latent.odernn import GRU
    >>> cell = GRU(2, 4, [None])
    >>> cell(torch.zeros(1, 5, 4), cell.inputs(torch.zeros(1, 5, 2))).shape
    torch.Size([1, 5, 4])
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
        self.inputs = Stack([inputs, 3 * hidden], generators, **kind)
        self.state = Stack([hidden, 3 * hidden], generators, **kind)

    def forward(
        self, h: Float[Tensor, "copies n hidden"], x: Float[Tensor, "copies n gates"]
    ) -> Float[Tensor, "copies n hidden"]:
        """The next state from the state and from what ``inputs`` made of the observation."""
        size = h.shape[-1]
        (gates, new), (own_gates, own_new) = (
            part.split([2 * size, size], -1) for part in (x, self.state(h))
        )
        r, u = torch.sigmoid(gates + own_gates).split(size, -1)
        c = torch.tanh(torch.addcmul(new, r, own_new))
        return torch.lerp(c, h, u)


class ODERNN(nn.Module):
    r"""An equation between observations, a GRU update at them, and a read-out at any time.

    .. math:: \dot h = f(h) \text{ between observations}, \qquad
        h \leftarrow \operatorname{GRU}(h, (x_i, m_i)) \text{ at } t_i, \qquad
        \hat x(t) = g(h(t^-))

    A series sees its own observations only: the batch advances from the k-th observation of each
    to the next, over gaps that differ from series to series. So the loop has as many turns as a
    series has observations, not as the union of all times has, and times at which nothing is
    observed have no effect at all. With a sequence of generators the module holds as many
    independent networks, and results have an axis for them in front.

    Args:
        dim: number of features of a series.
        hidden: size of the state.
        width: width of the hidden layer of the field and of the read-out.
        step_size: a gap is cut into equal steps no longer than this; None means one step.
        method: a key of ``METHODS`` for these steps.
        readout: whether there is a g; an encoder needs none.
        generator: source of the initial weights, or one for each of several networks; None means
            PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: a size below 1, unknown ``method`` or ``step_size`` not positive.

    Chapter: def-latent-odernn

    References: Rubanova, Chen and Duvenaud (2019), algorithm 1.

    >>> import torch
    >>> from nodes_tutorial.ode.latent import ODERNN
    >>> from nodes_tutorial.data.timeseries import observe, periodic
    >>> whole, _ = periodic(3, torch.Generator().manual_seed(0))
    >>> net = ODERNN(1, generator=torch.Generator().manual_seed(0))
    >>> net(observe(whole, 0.2, torch.Generator().manual_seed(1)), whole.times).shape
    torch.Size([3, 100, 1])
    """

    elapsed = 0  # how many inputs tell the time since the last observation

    def __init__(
        self,
        dim: int,
        hidden: int = 20,
        *,
        width: int = 50,
        step_size: float | None = None,
        method: str = "euler",
        readout: bool = True,
        generator: Generators = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(dim, hidden, width) < 1:
            raise ValueError(
                f"dim, hidden and width must be at least 1, got {dim}, {hidden} and {width}"
            )
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        if step_size is not None and not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        generators, self.copies = sources(generator)
        kind = {"dtype": dtype, "device": device}
        self.hidden, self.step_size, self.tableau = hidden, step_size, METHODS[method]
        self.gru = GRU(2 * dim + self.elapsed, hidden, generators, **kind)
        self.field = self._field(hidden, width, generators, kind)
        sizes = [hidden + self.elapsed, width, dim]
        self.readout = Stack(sizes, generators, **kind) if readout else None

    @staticmethod
    def _field(hidden: int, width: int, generators: list, kind: dict) -> nn.Module | None:
        return Stack([hidden, width, hidden], generators, **kind)

    def encode(self, series: Series, *, backwards: bool = True) -> Float[Tensor, "copies n hidden"]:
        """The state at the grid's first time, from the last observation backwards, or vice versa.

        Args:
            series: what is seen.
            backwards: the direction; forwards the state stays at the last observation.
        """
        times, states = self.states(series, backwards=backwards)
        if not backwards:
            return states[-1]
        return self.evolve(states[-1], series.times[0] - times[-1])

    def states(
        self, series: Series, *, backwards: bool = False
    ) -> tuple[Float[Tensor, "m *copies n 1"], Float[Tensor, "m copies n hidden"]]:
        """The time of each series' k-th update and the state right after it.

        Behind the last observation of a series its time and state are repeated.
        """
        times, values, mask = compact(series, backwards=backwards)
        times = _in_front(times.unsqueeze(-1))
        seen = _in_front(mask.any(-1, keepdim=True))
        gaps = times.diff(dim=0, prepend=times[:1])
        x = [_in_front(values), _in_front(mask).to(values.dtype)]
        x = self.gru.inputs(torch.cat([*x, *[gaps] * self.elapsed], -1))
        h = x.new_zeros((*x.shape[1:-1], self.hidden))
        states, turns = [], (gaps, self._cuts(gaps), seen, x.unbind())
        for gap, cuts, there, gates in zip(*turns, strict=True):  # one observation after the other
            h = self._advance(h, gap, cuts)
            h = torch.where(there, self.gru(h, gates), h)
            states.append(h)
        return times, torch.stack(states)

    def forward(
        self, series: Series, times: Float[Tensor, " targets"]
    ) -> Float[Tensor, "*copies n targets dim"]:
        """Predictions at any times, each from the observations before it.

        Args:
            series: what is seen.
            times: when to predict, none before the grid's first time.

        Raises:
            ValueError: the module was made without a read-out.
        """
        if self.readout is None:
            raise ValueError("readout must be True to predict")
        when, states = self.states(series)
        count = series.mask.any(-1).cumsum(-1)
        count = torch.nn.functional.pad(count, (1, 0))  # seen before each grid time, and in all
        place = torch.searchsorted(series.times, times)
        k = count[..., place]
        k = k.unsqueeze(0) if k.dim() == 2 else k
        begin = when.new_full(when.shape[1:], float(series.times[0]))
        when, states = torch.cat([begin[None], when]), torch.cat([0 * states[:1], states])
        copies, n, _ = states.shape[1:]
        pick = k.expand(copies, n, -1).permute(2, 0, 1).unsqueeze(-1)
        h = states.gather(0, pick.expand(*pick.shape[:-1], self.hidden))
        gaps = times.view(-1, 1, 1, 1) - when.expand(-1, copies, n, 1).gather(0, pick)
        gaps = torch.where(pick > 0, gaps, 0.0)  # nothing moves before the first observation
        h, gaps = (v.transpose(0, 1).flatten(1, 2) for v in (h, gaps))
        h = self.evolve(h, gaps)
        out = self.readout(torch.cat([h, *[gaps] * self.elapsed], -1))
        out = out.unflatten(1, (len(times), n)).transpose(1, 2)
        return out if self.copies else out.squeeze(0)

    def evolve(
        self, h: Float[Tensor, "copies n hidden"], gaps: Float[Tensor, "*copies n 1"]
    ) -> Float[Tensor, "copies n hidden"]:
        """The state some time later, or earlier, without observations; a gap for each row."""
        return self._advance(h, gaps, self._cuts(gaps.unsqueeze(0))[0])

    def _cuts(self, gaps: Float[Tensor, "m *copies n 1"]) -> list[int]:
        """Into how many steps the gaps of each turn are cut; brought to the host at once."""
        if self.step_size is None:
            return [1] * len(gaps)
        longest = gaps.detach().abs().flatten(1).amax(1).tolist()
        return [max(1, math.ceil(gap / self.step_size - 1e-6)) for gap in longest]

    def _advance(self, h: Tensor, gaps: Tensor, cuts: int) -> Tensor:
        """Equal Runge–Kutta steps over a gap, which each row has of its own length."""
        step = gaps / cuts if cuts > 1 else gaps

        def field(_, y):
            return step * self.field(y)  # in units of the step, which then is 1

        times = [step] * self.tableau.stages  # the field does not look at them
        for _ in range(cuts):
            stages = StageList(self.tableau, field(None, h))
            h = rk_step(field, times, h, 1.0, stages, last_stage=False)
        return h


def _in_front(x: Tensor) -> Tensor:
    """From (..., n, m, features) to (m, copies, n, features)."""
    x = x.movedim(-2, 0)
    return x.unsqueeze(1) if x.dim() == 3 else x
