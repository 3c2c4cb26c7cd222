"""The arguments of a solve, checked once and turned into a problem and its settings."""

from math import inf

from torch import Tensor

from nodes_tutorial.ode.solvers.adams import EXPLICIT_ADAMS, check_multistep
from nodes_tutorial.ode.solvers.callbacks import CALLBACKS, told_by, warn_of_silence
from nodes_tutorial.ode.solvers.measure import ErrorNorm, OwnNorm, Tolerance
from nodes_tutorial.ode.solvers.options import check_options
from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.settings import Limits, Settings
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.tableaus import ELSEWHERE, METHODS
from nodes_tutorial.ode.solvers.tolerance import controlled_size, grid_of, tolerance_of

ADAPTIVE = ("min_step", "max_step", "step_t", "jump_t", "norm")
GRADIENTS = ("direct", "checkpoint", "adjoint")
ALIASES = {None: "dopri5", "heun2": "heun"}


def prepare(func, y0, t, method, rtol, atol, options, gradient) -> tuple[Problem, Settings]:
    """Check all arguments of a solve; every error names its argument.

    Raises:
        TypeError, ValueError: an argument or an option is of the wrong type or does not fit.
    """
    tableau = find_tableau(method)
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    options = {} if options is None else check_options(options)
    if tableau is EXPLICIT_ADAMS or "max_order" in options:
        check_multistep(tableau, options, gradient)
    per_sample = options.pop("per_sample", False)
    controlled = options.pop("controlled", None)
    fixed = tableau.b_error is None or {"step_size", "grid_constructor"} & set(options)
    if per_sample and fixed:
        raise ValueError("options['per_sample'] needs an adaptive method and no step_size")
    if per_sample and gradient == "adjoint":
        raise ValueError(
            "options['per_sample'] and gradient='adjoint' do not go together: the parameters' "
            "adjoint is one for the batch; use 'direct' or 'checkpoint'"
        )
    problem = Problem(func, y0, t, per_sample)
    given = {"rtol": rtol, "atol": atol}
    tolerance = Tolerance(**{name: _tolerance(name, given[name], problem, y0) for name in given})
    _check_together(problem, options, tolerance, fixed, gradient)
    norm = options.pop("norm", None)
    if any(hasattr(func, name) for name in CALLBACKS):
        warn_of_silence(func, fixed)
        problem.tell = told_by(func, problem.unpack, problem.t)
    jumps = set(options.pop("jump_t", ()))
    problem.stops = tuple(jumps | set(options.pop("step_t", ())))
    problem.jumps = tuple(jumps)
    problem.stops_back, problem.jumps_back = problem.stops, problem.jumps
    limits = Limits(options.pop("min_step", 0.0), options.pop("max_step", inf))
    make = options.pop("grid_constructor", None)
    grid = None if make is None else grid_of(make(func, y0, problem.t), problem)
    if norm is not None:
        measure = OwnNorm(function=lambda x: norm(problem.unpack(x)))
    else:
        size = None if controlled is None else controlled_size(problem, controlled)
        measure = ErrorNorm(per_sample, size)
    return problem, Settings(tableau, tolerance, measure, limits, grid, **options)


def _check_together(problem, options, tolerance, fixed, gradient) -> None:
    """What does not go together with other arguments."""
    for name in ADAPTIVE if fixed else ("perturb",):
        if options.get(name):
            kind = "an adaptive method and no grid" if fixed else "fixed steps"
            raise ValueError(f"options[{name!r}] needs {kind}")
    if options.get("compile"):
        own = [name for name in (*ADAPTIVE, "grid_constructor", "perturb") if name in options]
        if own or tolerance.varies or (problem.joined and any(problem.complex)):
            what = f"options[{own[0]!r}]" if own else "one tolerance for each entry, or complex y0,"
            raise ValueError(f"options['compile'] does not work with {what}")
        if problem.autocast is not None:
            raise ValueError("options['compile'] does not work under autocast")
    if problem.per_sample or options.get("compile"):
        for name in CALLBACKS:
            if getattr(problem.func, name, None) is not None:
                raise ValueError(f"func.{name} is not called with per_sample or compile")
    if problem.per_sample:
        for name in ADAPTIVE:
            if name in options:
                raise ValueError(f"options['per_sample'] does not work with options[{name!r}]")
    if gradient == "checkpoint" and options.get("perturb"):
        raise ValueError("options['perturb'] does not work with gradient='checkpoint'")


def find_tableau(method) -> Tableau:
    """The tableau of a name, or the user's own, checked.

    Raises:
        ValueError: unknown name, or a tableau without the order that it states.
    """
    if method is None or isinstance(method, str):
        name = str(ALIASES.get(method, method))
        if name == EXPLICIT_ADAMS.name:
            return EXPLICIT_ADAMS
        tableau = METHODS.get(name)
    else:
        tableau = method if isinstance(method, Tableau) else None
    if tableau is None:
        names = ", ".join([*METHODS, EXPLICIT_ADAMS.name])
        instead = ELSEWHERE.get(method) if isinstance(method, str) else None
        hint = f"; {instead}" if instead else ""
        raise ValueError(f"method must be one of {names}, or a Tableau; got {method!r}{hint}")
    if tableau not in _OURS:
        from nodes_tutorial.ode.solvers.order import check_claims

        check_claims(tableau)
    return tableau


_OURS = frozenset(METHODS.values())


def _tolerance(name: str, value, problem: Problem, y0) -> float | Tensor:
    if type(value) is float and 0.0 <= value < inf:
        return value
    return tolerance_of(name, value, problem, y0)
