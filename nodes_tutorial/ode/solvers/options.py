"""The arguments of a solve, checked once and turned into a problem and its settings."""

from functools import lru_cache
from math import isfinite
from numbers import Real

from torch import Tensor

from nodes_tutorial.ode.solvers.control import ErrorNorm
from nodes_tutorial.ode.solvers.problem import Problem, Settings
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.tableaus import METHODS

OPTIONS = (
    *("step_size", "first_step", "max_steps", "per_sample", "compile", "adjoint_norm"),
    "controlled",
)
GRADIENTS = ("direct", "checkpoint", "adjoint")


def prepare(func, y0, t, method, rtol, atol, options, gradient) -> tuple[Problem, Settings]:
    """Check all arguments of a solve; every error names its argument.

    Raises:
        TypeError, ValueError: an argument or an option is of the wrong type or does not fit.
    """
    tableau = find_tableau(method)
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    options = _check_options(options)
    rtol, atol = _number("rtol", rtol, least=0.0), _number("atol", atol, least=0.0)
    per_sample = options.pop("per_sample", False)
    controlled = options.pop("controlled", None)
    fixed = tableau.b_error is None or options.get("step_size") is not None
    if per_sample and fixed:
        raise ValueError("options['per_sample'] needs an adaptive method and no step_size")
    if per_sample and gradient == "adjoint":
        raise ValueError(
            "options['per_sample'] and gradient='adjoint' do not go together: the parameters' "
            "adjoint is one for the batch; use 'direct' or 'checkpoint'"
        )
    problem = Problem(func, y0, t, per_sample)
    if options.get("compile") and problem.autocast is not None:
        raise ValueError("options['compile'] does not work under autocast")
    size = None if controlled is None else _controlled_size(problem, controlled)
    return problem, Settings(tableau, rtol, atol, ErrorNorm(per_sample, size), **options)


def find_tableau(method) -> Tableau:
    """The tableau of a name, or the user's own, checked.

    Raises:
        ValueError: unknown name, or a tableau without the order that it states.
    """
    if isinstance(method, str) and method in METHODS:
        tableau = METHODS[method]
    elif isinstance(method, Tableau):
        tableau = method
    else:
        names = ", ".join(METHODS)
        raise ValueError(f"method must be one of {names}, or a Tableau; got {method!r}")
    if tableau not in _OURS:
        _check_order(tableau)
    return tableau


_OURS = frozenset(METHODS.values())


@lru_cache(maxsize=64)
def _check_order(tableau: Tableau) -> None:
    from nodes_tutorial.ode.solvers.order import order_conditions

    claims = [("order", tableau.order, False)]
    if tableau.b_error is not None and tableau.b_error_low is None:
        claims.append(("error_order", min(tableau.error_order, tableau.order), True))
    for name, order, embedded in claims:
        if order < 1:
            raise ValueError(f"the tableau's {name} must be at least 1, got {order}")
        misses = order_conditions(tableau, order, embedded=embedded).values()
        if max(map(abs, misses)) > 1e-8:
            raise ValueError(
                f"the tableau {tableau.name!r} does not have the {name} {order} that it states"
            )


def _check_options(options) -> dict:
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise TypeError(f"options must be a dict or None, got {type(options).__name__}")
    options = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(str(name) for name in set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"options knows {', '.join(OPTIONS)}; got {', '.join(unknown)}")
    for name in ("step_size", "first_step", "max_steps"):
        if name in options:
            options[name] = _number(f"options[{name!r}]", options[name])
    if "max_steps" in options:
        if options["max_steps"] != int(options["max_steps"]):
            raise ValueError(f"options['max_steps'] must be whole, got {options['max_steps']!r}")
        options["max_steps"] = int(options["max_steps"])
    for name in ("per_sample", "compile"):
        if not isinstance(options.get(name, False), bool):
            raise TypeError(f"options[{name!r}] must be True or False, got {options[name]!r}")
    if options.get("adjoint_norm", "full") not in ("seminorm", "full"):
        raise ValueError(
            f"options['adjoint_norm'] must be 'seminorm' or 'full', got {options['adjoint_norm']!r}"
        )
    return options


def _number(name: str, value, least: float | None = None) -> float:
    """A finite number, not below ``least`` or, without one, positive."""
    kind = "a positive number" if least is None else f"a number >= {least:g}"
    if isinstance(value, Tensor) and value.numel() == 1 and not value.dtype.is_complex:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        shown = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name} must be {kind}, got {shown}")
    value = float(value)
    if not isfinite(value) or (value <= 0.0 if least is None else value < least):
        raise ValueError(f"{name} must be {kind} and finite, got {value!r}")
    return value


def _controlled_size(problem: Problem, parts) -> int:
    """How many entries of the joined state the leading parts have."""
    whole = isinstance(parts, int) and not isinstance(parts, bool)
    if not (problem.is_tuple and whole and 1 <= parts <= len(problem.sizes)):
        raise ValueError(
            "options['controlled'] must be a number of parts of a tuple state, at least 1; "
            f"got {parts!r} for {len(problem.sizes)} part(s)"
        )
    return sum(problem.sizes[:parts])
