"""Regression tasks for meta-learning: sinusoids of random amplitude and phase."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_generator, check_number, draw
from nodes_tutorial.data.tasks import Tasks


class Sinusoids:
    r"""Regression tasks :math:`y = A \sin(x - \varphi)`, each with its own A and :math:`\varphi`.

    Amplitude, phase and inputs are uniform. ``floors`` tells what a predictor reaches that does
    not adapt.

    Args:
        shots: points of the support.
        queries: points of the query.
        amplitude: least and largest A.
        phase: least and largest :math:`\varphi`.
        interval: least and largest x.
        noise: standard deviation of what is added to the targets.
        dtype: dtype of all numbers.
        device: device of the tasks; None means that of the generator.

    Raises:
        TypeError: ``shots`` or ``queries`` is not an integer.
        ValueError: one of them below 1, an interval whose end is not above its begin, ``noise``
            negative.

    References: Finn, Abbeel and Levine (2017), section 5.1.

    >>> import torch
    >>> from nodes_tutorial.data.sinusoids import Sinusoids
    >>> tasks = Sinusoids(10, 5).sample(25, torch.Generator().manual_seed(0))
    >>> tasks.support_x.shape, tasks.query_y.shape
    (torch.Size([25, 10, 1]), torch.Size([25, 5, 1]))
    """

    def __init__(
        self,
        shots: int,
        queries: int,
        *,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        interval: tuple[float, float] = (-5.0, 5.0),
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self.shots = check_count("shots", shots, least=1)
        self.queries = check_count("queries", queries, least=1)
        for name, (low, high) in (
            ("amplitude", amplitude),
            ("phase", phase),
            ("interval", interval),
        ):
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"{name} must be two rising numbers, got {(low, high)}")
        self.amplitude, self.phase, self.interval = amplitude, phase, interval
        self.noise = check_number("noise", noise, "0 or more", lambda s: 0 <= s < math.inf)
        self.dtype, self.device = dtype, device

    def sample(self, tasks: int, generator: torch.Generator | None = None) -> Tasks:
        """Draw tasks.

        Args:
            tasks: how many.
            generator: source of the draw; None means PyTorch's global one.

        Returns:
            Inputs and targets of shape (tasks, points, 1).

        Raises:
            TypeError: ``tasks`` is not an integer, ``generator`` is none.
            ValueError: ``tasks`` below 1.
        """
        amplitude, phase = self.curves(tasks, generator)
        size = (tasks, self.shots + self.queries, 1)
        x = self._uniform(self.interval, size, generator)
        y = amplitude * torch.sin(x - phase)
        if self.noise:
            kind = {"dtype": self.dtype, "device": self.device}
            y = y + self.noise * draw(torch.randn, size, generator, **kind)
        cut = self.shots
        return Tasks(x[:, :cut], y[:, :cut], x[:, cut:], y[:, cut:])

    def curves(
        self, tasks: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "tasks 1 1"], Float[Tensor, "tasks 1 1"]]:
        """Amplitudes and phases; those that ``sample`` uses with a generator in the same state."""
        check_count("tasks", tasks, least=1)
        check_generator(generator)
        size = (tasks, 1, 1)
        amplitude = self._uniform(self.amplitude, size, generator)
        return amplitude, self._uniform(self.phase, size, generator)

    def floors(self) -> dict[str, float]:
        r"""Expected squared errors of the best predictors that know nothing of the task.

        ``"zero"`` always says 0, ``"constant"`` the best number, and ``"function"`` the best
        function of x, which is :math:`\mathrm E[A]\,\mathrm E[\sin(x-\varphi)]`. No network goes
        below the last one before it adapts. With the phase uniform on :math:`[0, \pi]` the best
        function is :math:`-\tfrac2\pi\mathrm E[A]\cos x`.

        >>> from nodes_tutorial.data.sinusoids import Sinusoids
        >>> {name: round(error, 4) for name, error in Sinusoids(10, 10).floors().items()}
        {'zero': 4.2517, 'constant': 4.1547, 'function': 3.0057}
        """
        low, high = self.amplitude
        mean, square = (low + high) / 2, (low * low + low * high + high * high) / 3
        (cos_x, sin_x), (cos_p, sin_p) = (_waves(end, 1) for end in (self.interval, self.phase))
        (cos_2x, sin_2x), (cos_2p, sin_2p) = (_waves(end, 2) for end in (self.interval, self.phase))
        # sin²(x - φ) = (1 - cos(2x - 2φ)) / 2
        zero = square * (1 - cos_2x * cos_2p - sin_2x * sin_2p) / 2 + self.noise**2
        constant = mean * (sin_x * cos_p - cos_x * sin_p)
        # the best function is a sin x - b cos x
        a, b = mean * cos_p, mean * sin_p
        best = a * a * (1 - cos_2x) / 2 + b * b * (1 + cos_2x) / 2 - a * b * sin_2x
        return {"zero": zero, "constant": zero - constant**2, "function": zero - best}

    def _uniform(
        self, ends: tuple[float, float], size: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        low, high = ends
        some = draw(torch.rand, size, generator, dtype=self.dtype, device=self.device)
        return low + (high - low) * some


def _waves(ends: tuple[float, float], k: int) -> tuple[float, float]:
    """Means of cos(k u) and sin(k u) for u uniform between the ends."""
    low, high = ends
    width = k * (high - low)
    return (
        (math.sin(k * high) - math.sin(k * low)) / width,
        (math.cos(k * low) - math.cos(k * high)) / width,
    )
