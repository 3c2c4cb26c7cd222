"""The Runge–Kutta methods of the package: one Butcher tableau each."""

from dataclasses import replace

from nodes_tutorial.ode.solvers import dop853
from nodes_tutorial.ode.solvers.tableau import Row, Tableau

_EULER = Tableau("euler", 1, (), (1.0,), (0.0,), ((1.0,),), 1)

_MIDPOINT = Tableau(
    "midpoint", 2, ((1 / 2,),), (0.0, 1.0), (0.0, 1 / 2), ((1.0, -1.0), (0.0, 1.0)), 2
)

_HEUN_DENSE = ((1.0, -1 / 2), (0.0, 1 / 2))
_HEUN = Tableau("heun", 2, ((1.0,),), (1 / 2, 1 / 2), (0.0, 1.0), _HEUN_DENSE, 2)

_ADAPTIVE_HEUN = replace(_HEUN, name="adaptive_heun", b_error=(-1 / 2, 1 / 2), error_order=1)

_HEUN3 = Tableau(
    "heun3",
    3,
    ((1 / 3,), (0.0, 2 / 3)),
    (1 / 4, 0.0, 3 / 4),
    (0.0, 1 / 3, 2 / 3),
    ((1.0, -3 / 4), (0.0, 0.0), (0.0, 3 / 4)),
    2,
)

_FEHLBERG2 = Tableau(
    "fehlberg2",
    2,
    ((1 / 2,), (1 / 256, 255 / 256)),
    (1 / 512, 255 / 256, 1 / 512),
    (0.0, 1 / 2, 1.0),
    ((513 / 512, -1.0), (-1 / 256, 1.0), (1 / 512, 0.0)),
    2,
    b_error=(-1 / 512, 0.0, 1 / 512),
    error_order=1,
)

_RK4 = Tableau(
    "rk4",
    4,
    ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((1.0, -3 / 2, 2 / 3), (0.0, 1.0, -2 / 3), (0.0, 1.0, -2 / 3), (0.0, -1 / 2, 2 / 3)),
    3,
)

_BOSH3 = Tableau(
    "bosh3",
    3,
    ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)),
    3,
    b_error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    error_order=2,
)

_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_DOPRI5 = Tableau(
    "dopri5",
    5,
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B,
    ),
    (*_DOPRI5_B, 0.0),
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    # Shampine's interpolant, the one with the smallest leading error term.
    (
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (
            0.0,
            127303824393 / 49829197408,
            -318862633887 / 49829197408,
            701980252875 / 199316789632,
        ),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    4,
    b_error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    error_order=4,
)


def _polynomial(scale: float, *factors: Row) -> Row:
    """Coefficients of θ, θ², θ³, θ⁴ in a product of polynomials given from the constant up."""
    product = [scale]
    for factor in factors:
        grown = [0.0] * (len(product) + len(factor) - 1)
        for i, p in enumerate(product):
            for j, q in enumerate(factor):
                grown[i + j] += p * q
        product = grown
    return tuple(product[1:])


_SQUARE = (0.0, 0.0, 1.0)
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
_TSIT5 = Tableau(
    "tsit5",
    5,
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B,
    ),
    (*_TSIT5_B, 0.0),
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        _polynomial(
            -1.0530884977290216,
            (0.0, 1.0),
            (-1.3299890189751412, 1.0),
            (0.7139816917074209, -1.4364028541716351, 1.0),
        ),
        _polynomial(0.1017, _SQUARE, (1.2949852507374631, -2.1966568338249754, 1.0)),
        _polynomial(2.490627285651253, _SQUARE, (1.578034682080925, -2.3853564547206166, 1.0)),
        _polynomial(
            -16.548102889244902, _SQUARE, (-1.2171292729553325, 1.0), (-0.616204060378000, 1.0)
        ),
        _polynomial(
            47.37952196281928, _SQUARE, (-1.2030712083723627, 1.0), (-0.6580472926535474, 1.0)
        ),
        _polynomial(-34.870657861496610, _SQUARE, (-1.2, 1.0), (-2 / 3, 1.0)),
        _polynomial(2.5, _SQUARE, (-1.0, 1.0), (-0.6, 1.0)),
    ),
    4,
    b_error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    error_order=4,
)

_DOPRI8 = Tableau(
    "dopri8",
    8,
    dop853.A,
    dop853.B,
    dop853.C,
    dop853.DENSE,
    7,
    b_error=dop853.ERROR_5,
    error_order=7,
    b_error_low=dop853.ERROR_3,
    extra_a=dop853.EXTRA_A,
    extra_c=dop853.EXTRA_C,
)

# `rk4` is the classical rule; torchdiffeq gives that name to the 3/8 rule.
METHODS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (
        _EULER,
        _MIDPOINT,
        _HEUN,
        _HEUN3,
        _RK4,
        _BOSH3,
        _ADAPTIVE_HEUN,
        _FEHLBERG2,
        _DOPRI5,
        _TSIT5,
        _DOPRI8,
    )
}

_GAUSS = ("radauIIA3", "gl4", "radauIIA5", "gl6")
# methods of torchdiffeq that METHODS does not have, and where to look
ELSEWHERE = {
    "scipy_solver": "call scipy.integrate.solve_ivp",
    **dict.fromkeys(
        ("implicit_adams", "fixed_adams"),
        "the multistep method is explicit_adams; implicit methods are those of odeint_stiff",
    ),
    **dict.fromkeys(
        ("implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2", *_GAUSS),
        "implicit methods are those of odeint_stiff",
    ),
}
