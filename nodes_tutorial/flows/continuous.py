"""Continuous normalizing flows: a density moved by an ordinary differential equation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_generator, check_number
from nodes_tutorial.flows.conditional import check_context
from nodes_tutorial.flows.field import Field
from nodes_tutorial.flows.flow import Transform
from nodes_tutorial.flows.regularize import PENALTIES
from nodes_tutorial.flows.trace import Augmented
from nodes_tutorial.linalg import draw_probes
from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.solvers.prepare import prepare

TRACES, NOISES = ("exact", "hutchinson"), ("rademacher", "gaussian")


class CNF(Transform):
    r"""The flow map of :math:`\dot x = f(t, x)`, from noise at t = 0 to data at t = t1.

    .. math:: x(t_1) = z + \int_0^{t_1} f\,dt, \qquad
        \log\Bigl|\det\frac{\partial x(t_1)}{\partial z}\Bigr|
        = \int_0^{t_1}\operatorname{tr}\frac{\partial f}{\partial x}(t, x(t))\,dt

    Point, log-determinant and penalties are one state of one ``odeint`` call; the inverse runs
    from t1 to 0. The error norm of the steps is the root mean square over points *and*
    log-determinants, with one tolerance for both, since the density is what is asked for.
    Penalties are left out of it: with them the solver takes the same steps.

    With ``trace="hutchinson"`` the probes are drawn once for each call and held during it. The
    log-determinant is then an estimate. To evaluate exactly after training, build a second ``CNF``
    of the same field with ``trace="exact"``.

    Args:
        field: ``f(t, x)`` on shapes (n, dim). ``nets.TimeMLP`` and other fields with
            ``value_and_tangents`` multiply their Jacobian by that, any other by reverse mode.
            With a context it is ``f(t, x, context)``, as ``ContextField`` and ``HyperField`` are.
        trace: ``"exact"``, at dim Jacobian products an evaluation, or ``"hutchinson"``.
        probes: number of probes a point of the estimate.
        noise: law of the probes, ``"rademacher"`` (signs) or ``"gaussian"``.
        generator: source of the probes; None means PyTorch's global one.
        regularize: penalties to integrate as well, for ``inverse_with_penalties``: ``"kinetic"``
            (:math:`\int\|f\|^2dt`), ``"jacobian"`` (:math:`\int\|\partial f/\partial x\|_F^2dt`).
        t1: end of the time interval.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        method: a key of ``ode.METHODS``.
        gradient: ``"direct"``, ``"checkpoint"`` or ``"adjoint"``, as for ``ode.odeint``.
        options: as for ``ode.odeint``.
        context: entries of the context; None means what the field says, or 0.

    Attributes:
        nfe: evaluations of the field by the last call; None before the first and for compiled ones.

    Raises:
        TypeError: ``t1`` is not a number (a tensor would lose its gradient), ``probes`` no integer,
            ``generator`` is not a generator.
        ValueError: an unknown name, ``probes`` below 1, ``t1`` not positive; as ``ode.odeint``.

    Chapter: thm-continuous-change

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 4; Grathwohl et al. (2019).

    >>> import torch
    >>> from nodes_tutorial.flows import CNF
    >>> cnf = CNF(lambda t, x: 0.5 * x)  # x(1) = exp(0.5) z
    >>> x, ladj = cnf(torch.tensor([[1.0, -2.0]]))
    >>> print(f"{x[0, 0]:.4f} {ladj[0]:.4f}")
    1.6487 1.0000
    """

    event_dims = 1

    def __init__(
        self,
        field: Field,
        trace: str = "exact",
        *,
        probes: int = 1,
        noise: str = "rademacher",
        generator: torch.Generator | None = None,
        regularize: Sequence[str] = (),
        t1: float | int = 1.0,
        rtol: float | int = 1e-5,
        atol: float | int = 1e-5,
        method: str = "dopri5",
        gradient: str = "direct",
        options: dict[str, Any] | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__()
        for name, got, known in (("trace", trace, TRACES), ("noise", noise, NOISES)):
            if got not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {got!r}")
        check_count("probes", probes, least=1)
        check_generator(generator)
        has = hasattr(field, "given")
        asked = (field.context if has else 0) if context is None else context
        self.context = check_count("context", asked)
        self.t1 = check_number("t1", t1, "a positive number", lambda t: 0 < t < math.inf)
        start, span = torch.zeros(1, 1), torch.tensor([0.0, 1.0])  # any: the settings are looked at
        prepare(field, start, span, method, rtol, atol, options, gradient)
        unknown = [name for name in regularize if name not in PENALTIES]
        if isinstance(regularize, str) or unknown:
            raise ValueError(f"regularize must list some of {list(PENALTIES)}, got {regularize!r}")
        self.field: Any = field
        self.trace, self.probes, self.noise = trace, probes, noise
        self.generator, self.regularize = generator, tuple(regularize)
        self.rtol, self.atol, self.method, self.gradient = rtol, atol, method, gradient
        self.options = dict(options or {})
        self.nfe: int | None = None

    def forward(
        self,
        z: Float[Tensor, "*batch dim"],
        probes: Float[Tensor, "k *batch dim"] | None = None,
        context: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map noise to data and return x and the log-determinants.

        Args:
            z: points in the space of the noise.
            probes: directions for the estimated trace, in place of drawn ones.
            context: one for all points, or one for each.
        """
        x, ladj, *_ = self._solve(z, (0.0, self.t1), probes, context)
        return x, ladj

    def inverse(
        self,
        x: Float[Tensor, "*batch dim"],
        probes: Float[Tensor, "k *batch dim"] | None = None,
        context: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map data to noise; arguments as for ``forward``. Return z and the log-determinants."""
        z, ladj, *_ = self._solve(x, (self.t1, 0.0), probes, context)
        return z, ladj

    def inverse_with_penalties(
        self,
        x: Float[Tensor, "*batch dim"],
        probes: Float[Tensor, "k *batch dim"] | None = None,
        context: Float[Tensor, "..."] | None = None,
    ) -> tuple[
        Float[Tensor, "*batch dim"], Float[Tensor, "*batch"], dict[str, Float[Tensor, "*batch"]]
    ]:
        """``inverse``, and for each point the penalties of ``regularize`` along its path.

        Returns:
            z, the log-determinants, and the penalties by name, which are not negative.
        """
        z, ladj, *found = self._solve(x, (self.t1, 0.0), probes, context, self.regularize)
        # the clock runs backwards, so what grew with |dt| comes out with the other sign
        return z, ladj, {n: -p for n, p in zip(self.regularize, found, strict=True)}

    def push(
        self, z: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """``forward`` without the log-determinant: the field alone, without its Jacobian."""
        return self.path(z, torch.tensor([0.0, self.t1], dtype=torch.float64), context)[-1]

    def pull(
        self, x: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """``inverse`` without the log-determinant."""
        return self.path(x, torch.tensor([self.t1, 0.0], dtype=torch.float64), context)[-1]

    def path(
        self,
        x: Float[Tensor, "*batch dim"],
        t: Float[Tensor, " times"],
        context: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "times *batch dim"]:
        """The paths of points, without the log-determinant.

        Args:
            x: where they are at ``t[0]``.
            t: times, rising or falling.
            context: as for ``forward``.

        Returns:
            The points at each time.
        """
        rows = x.reshape(-1, x.shape[-1])
        field, parameters = self._at(context, x.shape[:-1])
        self.nfe, calls = None, [0]

        def counted(t: Tensor, x: Tensor) -> Tensor:
            calls[0] += 1
            return field(t, x)

        compiled = self.options.get("compile", False)
        path = self._odeint(field if compiled else counted, rows, t, parameters)
        self.nfe = None if compiled else calls[0] - (self.gradient != "direct")
        return path.view(len(t), *x.shape)

    def _solve(
        self,
        x: Tensor,
        span: tuple[float, float],
        probes: Tensor | None,
        context: Tensor | None,
        penalties: Sequence[str] = (),
    ) -> tuple[Tensor, ...]:
        """End point, log-determinant and penalties of a solve over ``span``."""
        batch, rows = x.shape[:-1], x.reshape(-1, x.shape[-1])
        field, parameters = self._at(context, batch)
        if self.trace == "exact":
            if probes is not None:
                raise ValueError("probes must be None for trace='exact'")
        elif probes is None:
            probes = draw_probes(self.probes, rows, self.noise, self.generator)
        else:
            probes = probes.reshape(-1, *rows.shape)
        compiled = self.options.get("compile", False)
        system = Augmented(field, probes, penalties, count=not compiled)
        state = (rows, *(rows.new_zeros(len(rows)) for _ in range(1 + len(penalties))))
        t = torch.tensor(span, dtype=torch.float64)
        end = [part[-1] for part in self._odeint(system, state, t, parameters, controlled=2)]
        self.nfe = None if compiled else system.nfe - (self.gradient != "direct")
        return end[0].view(x.shape), *(part.view(batch) for part in end[1:])

    def _at(
        self, context: Tensor | None, batch: Sequence[int]
    ) -> tuple[Field, tuple[Tensor, ...] | None]:
        """The field ``f(t, x)`` of a context, and the tensors that it hangs on."""
        parameters = tuple(self.field.parameters()) if isinstance(self.field, nn.Module) else None
        if context is None and not self.context:
            return self.field, parameters
        context = check_context(context, self.context, batch)
        if context.shape[:-1].numel() > 1:  # one for each row
            context = context.expand(*batch, self.context).reshape(-1, self.context)
        else:
            context = context.reshape(self.context)
        put_in = getattr(self.field, "given", None)
        if put_in is not None:
            field = put_in(context)
            return field, field.tensors
        return lambda t, x: self.field(t, x, context), (*(parameters or ()), context)

    def _odeint(self, func: Any, state: Any, t: Tensor, parameters: Any, **options: Any) -> Any:
        """``odeint`` with the settings of this flow."""
        return odeint(
            func,
            state,
            t,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            gradient=self.gradient,
            options=self.options | options,
            adjoint_params=parameters,
        )
