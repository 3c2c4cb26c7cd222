"""The matching loss and its minimizer, against enumeration, quadrature and exact transport."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from nodes_tutorial.flows import (
    CNF,
    Flow,
    PosteriorVelocity,
    StandardNormal,
    flow_matching_loss,
    optimal_pairs,
    straightness,
)
from nodes_tutorial.flows.matching import checkerboard_floor
from nodes_tutorial.nets import TimeMLP
from nodes_tutorial.ode import odeint, solve

F64 = torch.float64
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# a mixture on the line: centers, standard deviation, weights
CENTERS, SD, WEIGHTS = (-2.8, -0.9, 2.0), 0.632, (0.5, 0.2, 0.3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(sd=SD):
    centers, weights = (torch.tensor(v, dtype=F64) for v in (CENTERS, WEIGHTS))
    return PosteriorVelocity(centers[:, None], sd, weights)


def column(*values):
    return torch.tensor(values, dtype=F64)[:, None]


# --- conditional and marginal objectives -------------------------------------------------------

# every (x0, x1, t) of a finite law in the plane; many lines meet in the same point at t = 1/2
NOISE = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]], dtype=F64)
DATA = torch.tensor([[-1.0, 0], [1, 0], [2, 1]], dtype=F64)
TIMES = torch.tensor([0.25, 0.5, 0.75], dtype=F64)


def every_line(weights):
    """Points, times, velocities and probabilities of a coupling given by its matrix."""
    rows = []
    for i, j, k in itertools.product(range(4), range(3), range(3)):
        t = TIMES[k]
        x, u = (1 - t) * NOISE[i] + t * DATA[j], DATA[j] - NOISE[i]
        rows.append((x, t.view(1), u, weights[i, j] / 3))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def marginal_velocity(x, t, u, p):
    """E[u | x_t, t] by grouping the lines that meet."""
    near = ((x[:, None] - x).norm(dim=-1) < 1e-9) & ((t - t.T).abs() < 1e-9)
    share = near * p
    return (share @ u) / share.sum(-1, keepdim=True), near


def largest_gap(one, two):
    return max((a - b).abs().max() for a, b in zip(one, two, strict=True))


def gradient(field, error, p):
    return torch.autograd.grad((p * error.square().sum(-1)).sum(), list(field.parameters()))


@pytest.mark.claim("thm-matching-gradient")
@pytest.mark.parametrize("coupled", [False, True])
def test_conditional_and_marginal_gradients_by_enumeration(coupled, measured):
    field = TimeMLP(2, [16], generator=seeded(), dtype=F64)
    weights = torch.full((4, 3), 1 / 12, dtype=F64)
    if coupled:  # any coupling will do, also one that is not independent
        weights = torch.rand(4, 3, generator=seeded(1), dtype=F64)
        weights = weights / weights.sum()
    x, t, u, p = every_line(weights)
    velocity, near = marginal_velocity(x, t, u, p)
    assert (near.sum(-1) > 1).any()
    conditional = gradient(field, field(t, x) - u, p)
    marginal = gradient(field, field(t, x) - velocity, p)
    gap = largest_gap(conditional, marginal)
    assert measured(gap, "gradient of every weight") < 1e-13
    floor = (p * (u - velocity).square().sum(-1)).sum()
    values = [(p * (field(t, x) - target).square().sum(-1)).sum() for target in (u, velocity)]
    gap = (values[0] - values[1] - floor).detach().abs()
    assert measured(gap, "difference of the losses") < 1e-13
    assert floor > 0.1
    # wrong: the plain mean of the lines that meet, without their probabilities
    plain = near.double() @ u / near.sum(-1, keepdim=True)
    wrong = gradient(field, field(t, x) - plain, p)
    gap = largest_gap(conditional, wrong)
    assert (gap > 1e-3) == coupled


@pytest.mark.claim("thm-matching-gradient")
def test_loss_of_the_package_is_the_conditional_one():
    """200,000 lines of the same finite law; the bound is 5 standard deviations."""
    generator, n = seeded(2), 200_000
    x0 = NOISE[torch.randint(4, (n,), generator=generator)]
    x1 = DATA[torch.randint(3, (n,), generator=generator)]
    ours = flow_matching_loss(lambda t, x: t * x.flip(-1), x1, x0, generator=generator)
    total = []
    for a, b in itertools.product(NOISE, DATA):

        def error(t, a=a, b=b):
            x = (1 - t) * a + t * b
            return float((t * x.flip(-1) - (b - a)).square().sum())

        total.append((quad(error, 0, 1)[0], quad(lambda t, e=error: e(t) ** 2, 0, 1)[0]))
    mean, second = np.mean(total, 0)
    spread = math.sqrt((second - mean**2) / n)
    assert abs(ours - mean) < 5 * spread
    assert abs(ours - mean / 2) > 5 * spread  # the mean over the entries of a point


# --- the minimizer ------------------------------------------------------------------------------


def by_quadrature(t, x, value):
    """E[value(x1, x0) | x_t = x], integrated over x1 for the mixture."""

    def weight(x1):
        density = sum(w * norm.pdf(x1, m, SD) for m, w in zip(CENTERS, WEIGHTS, strict=True))
        return density * norm.pdf((x - t * x1) / (1 - t))

    ends = {"limit": 400, "epsabs": 1e-13, "epsrel": 1e-12, "points": CENTERS}
    mass = quad(weight, -8, 8, **ends)[0]
    top = quad(lambda x1: value(x1, (x - t * x1) / (1 - t)) * weight(x1), -8, 8, **ends)[0]
    return top / mass


@pytest.mark.claim("lem-matching-posterior")
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("x", [-2.0, 0.3, 1.7])
def test_minimizer_is_the_conditional_mean(t, x, measured):
    ours = mixture()(torch.tensor(t, dtype=F64), column(x))
    exact = by_quadrature(t, x, lambda x1, x0: x1 - x0)
    assert measured((ours - exact).abs(), "against quadrature over x1") < 1e-9
    ahead = by_quadrature(t, x, lambda x1, x0: x1 - x)
    assert (ours - ahead).abs() > 1e-3  # the way that is left, not divided by the time that is


@pytest.mark.claim("lem-matching-posterior")
@pytest.mark.parametrize("sd", [0.0, 0.7])
def test_jacobian_of_the_minimizer(sd, measured):
    """b I + t (1-t)/a^2 Cov, with the covariance of the centers by direct summation."""
    centers = torch.randn(7, 3, generator=seeded(), dtype=F64)
    field, x = PosteriorVelocity(centers, sd), torch.randn(3, generator=seeded(1), dtype=F64)
    for time in (0.2, 0.6, 0.95):
        t = torch.tensor(time, dtype=F64)
        a = (1 - t) ** 2 + t**2 * sd**2
        weights = torch.softmax(-(x - t * centers).square().sum(-1) / (2 * a), 0)
        mean = weights @ centers
        cov = (weights[:, None] * (centers - mean)).T @ (centers - mean)
        slope = (t * sd**2 - (1 - t)) / a * torch.eye(3, dtype=F64)
        jacobian = torch.func.jacfwd(lambda y, t=t: field(t, y))(x)
        exact = slope + t * (1 - t) / a**2 * cov
        assert measured((jacobian - exact).abs().max(), "Jacobian") < 1e-10
        bound = slope.abs().max() + t * (1 - t) / a**2 * centers.square().sum(-1).max()
        assert torch.linalg.matrix_norm(jacobian, 2) <= bound
        assert (jacobian - slope - t / a * cov).abs().max() > 1e-4  # a factor (1-t)/a too few


def cdf(t, x):
    """Distribution function of x_t for the mixture."""
    sd = math.sqrt((1 - t) ** 2 + (t * SD) ** 2)
    return sum(w * norm.cdf(x, t * m, sd) for m, w in zip(CENTERS, WEIGHTS, strict=True))


@pytest.mark.claim("thm-matching-marginals")
def test_flow_of_the_minimizer_is_the_monotone_map(measured):
    """On the line a flow keeps order, so it maps quantiles of N(0,1) to quantiles of p_t."""
    z = torch.linspace(-3, 3, 25, dtype=F64)[:, None]
    times = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=F64)
    paths = odeint(mixture(), z, times, rtol=1e-9, atol=1e-10)
    for t, x in zip(times.tolist(), paths, strict=True):
        gap = np.abs(cdf(t, x.numpy()) - norm.cdf(z.numpy())).max()
        assert measured(gap, "quantiles") < 1e-8
    # wrong: towards the posterior mean of x1, without the time that is left
    field = mixture()
    drift = odeint(lambda t, x: field.posterior_mean(t, x) - x, z, times, rtol=1e-8, atol=1e-8)
    assert np.abs(cdf(1.0, drift[-1].numpy()) - norm.cdf(z.numpy())).max() > 0.1


@pytest.mark.claim("thm-matching-marginals")
def test_flow_reaches_data_without_a_density():
    """Point masses: the field blows up at t = 1, and the paths end in the right shares."""
    z = torch.tensor(norm.ppf((np.arange(2000) + 0.5) / 2000))[:, None]
    times = torch.tensor([0.0, 0.999], dtype=F64)
    end = odeint(mixture(0.0), z, times, rtol=1e-6, atol=1e-8)[-1]
    nearest = (end - torch.tensor(CENTERS, dtype=F64)).abs().min(-1)
    assert nearest.values.max() < 0.02
    shares = nearest.indices.bincount(minlength=3) / 2000
    assert (shares - torch.tensor(WEIGHTS, dtype=F64)).abs().max() < 1.5e-3


# --- floor, budget, straightness ----------------------------------------------------------------


def line_field(m, s):
    """The minimizer for independent N(0, 1) and N(m, s^2)."""
    return PosteriorVelocity(torch.tensor([[m]], dtype=F64), s)


@pytest.mark.claim("prop-matching-floor")
@pytest.mark.parametrize("s", [0.3, 1.0, 2.5])
def test_floor_between_gaussians(s, measured):
    """The variance of x1 - x0 given x_t, by the determinant of a covariance, integrated."""

    def variance(t):
        cov = np.array([[(1 - t) ** 2 + (t * s) ** 2, t * s**2 - (1 - t)], [0, 1 + s**2]])
        cov[1, 0] = cov[0, 1]
        return np.linalg.det(cov) / cov[0, 0]

    value = quad(variance, 0, 1, epsabs=1e-13, epsrel=1e-12)[0]
    assert measured(abs(value - math.pi * s / 2), "pi s / 2") < 1e-11
    assert abs(value - s) > 0.1  # not zero, and not the spread of the data
    generator, n = seeded(), 400_000
    x1 = 0.7 + s * torch.randn(n, 1, generator=generator, dtype=F64)
    field = line_field(0.7, s)
    ours = flow_matching_loss(field, x1, generator=generator)
    assert abs(ours / value - 1) < 0.02  # 5 standard deviations are 1.3 %


@pytest.mark.claim("prop-matching-floor")
def test_floor_of_a_rotated_gaussian(measured):
    """pi/2 tr of the root of the covariance, from the eigenvalues of a full matrix."""
    a = torch.randn(3, 3, generator=seeded(), dtype=F64)
    cov = a @ a.T
    nodes, weights = np.polynomial.legendre.leggauss(200)
    total, eye = 0.0, torch.eye(3, dtype=F64)
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        cross = t * cov - (1 - t) * eye
        rest = eye + cov - cross @ torch.linalg.solve((1 - t) ** 2 * eye + t**2 * cov, cross)
        total += w * float(rest.trace())
    exact = math.pi / 2 * float(torch.linalg.eigvalsh(cov).sqrt().sum())
    assert measured(abs(total / exact - 1), "relative, against the trace of the root") < 1e-7
    assert abs(total / (math.pi / 2 * float(cov.trace()) ** 0.5) - 1) > 0.05


@pytest.mark.parametrize("side", [1.0, 2.0])
def test_floor_of_the_checkerboard(side):
    """Against the loss of a field that knows 20,000 points of the board, up to t = 0.95.

    In what is left of time the noise of a point is hardly known, so its variance is one.
    """
    square = torch.randint(8, (28_000,), generator=seeded(0))
    row = square // 2
    corner = torch.stack([row - 2, 2 * (square % 2) + row % 2 - 2], -1)
    board = side * (corner + torch.rand(28_000, 2, generator=seeded(1), dtype=F64))
    exact, x1 = PosteriorVelocity(board[:20_000]), board[20_000:]
    x0 = torch.randn(8_000, 2, generator=seeded(2), dtype=F64)
    t = 0.95 * (torch.arange(8_000, dtype=F64)[:, None] + 0.5) / 8_000
    error = (exact(t, x0 + t * (x1 - x0)) - (x1 - x0)).square().mean()
    floor = checkerboard_floor(side)
    assert abs((0.95 * float(error) + 0.05) / floor - 1) < 0.03
    assert abs(checkerboard_floor(side, nodes=48, cells=480) / floor - 1) < 1e-4


@pytest.mark.claim("thm-matching-budget")
def test_cost_of_the_coupling_is_the_sum_of_three(measured):
    """Mixture on the line: moved distance by quantiles, floor and bend by quadrature."""
    q = np.polynomial.legendre.leggauss(200)
    z = torch.tensor(norm.ppf((q[0] + 1) / 2))[:, None]
    w = torch.tensor(q[1] / 2)
    field = mixture()
    nodes, weights = np.polynomial.legendre.leggauss(40)
    times = torch.tensor([0.0, *((nodes + 1) / 2), 1.0], dtype=F64)
    path = odeint(field, z, times, rtol=1e-8, atol=1e-9)
    chord = (path[-1] - path[0])[:, 0]
    speed = torch.stack([field(t, y)[:, 0] for t, y in zip(times[1:-1], path[1:-1], strict=True)])
    weights = torch.tensor(weights / 2)
    bend = weights @ ((speed - chord) ** 2 @ w)
    moved = (chord**2) @ w
    second = sum(p * (m**2 + SD**2) for m, p in zip(CENTERS, WEIGHTS, strict=True))
    # floor: the mean conditional variance, integrated over x_t on a grid and over t
    floor = 0.0
    grid = torch.linspace(-9, 9, 2001, dtype=F64)[:, None]
    for t, p in zip(times[1:-1], weights, strict=True):
        a = field.variance(t)
        centers = torch.tensor(CENTERS, dtype=F64)
        parts = torch.tensor(WEIGHTS, dtype=F64) * (-((grid - t * centers) ** 2) / (2 * a)).exp()
        parts = parts / (math.tau * a).sqrt()
        density = parts.sum(-1)
        share = parts / density[:, None]
        var_y = share @ centers**2 - (share @ centers) ** 2
        within = SD**2 / a + ((1 - t) / a) ** 2 * var_y
        floor += float(p * (density * within).sum() * (grid[1, 0] - grid[0, 0]))
    total = moved + bend + floor
    # tails beyond the outer quantile nodes are missing from `moved` and `bend`
    assert measured((total - (1 + second)).abs() / total, "relative gap of the budget") < 1e-4
    assert bend > 0.05
    assert floor > 0.5
    assert (moved + floor - (1 + second)).abs() > 0.05  # the bend left out
    even = torch.tensor(norm.ppf((np.arange(300) + 0.5) / 300))[:, None]
    ours = straightness(field, even, nodes=20, rtol=1e-6, atol=1e-6)
    assert (ours / bend - 1).abs() < 0.02  # the midpoint rule for the quantiles


@pytest.mark.claim("prop-matching-straight")
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_is_exact_on_straight_paths(steps, measured):
    """Optimal coupling of N(0,1) with N(m, s^2): v(t, x) = m + (s-1)(x - tm)/(1 - t + ts)."""
    m, s = 1.3, 0.2

    def field(t, x):
        return m + (s - 1) * (x - t * m) / (1 - t + t * s)

    z = torch.linspace(-3, 3, 13, dtype=F64)[:, None]
    euler = {"method": "euler", "options": {"step_size": 1 / steps}}
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    error = (odeint(field, z, ends, **euler)[-1] - (m + s * z)).abs().max()
    assert measured(error, f"{steps} Euler steps") < 1e-13
    # the independent coupling has the same ends and bent paths
    bent = line_field(m, s)
    assert (odeint(bent, z, ends, **euler)[-1] - (m + s * z)).abs().max() > 0.05


@pytest.mark.claim("thm-matching-rectify")
@pytest.mark.parametrize("cost", [np.abs, np.square, lambda u: u**4, np.cosh])
def test_rectified_pairs_cost_no_more(cost):
    """The mixture on the line, by quadrature over quantiles of noise and data."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, w = (nodes + 1) / 2, weights / 2
    z = torch.tensor(norm.ppf(u))[:, None]
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    x1 = odeint(mixture(), z, ends, rtol=1e-9, atol=1e-11)[-1]
    z, x1 = z.numpy(), x1.numpy()
    rectified = w @ cost(x1 - z)[:, 0]
    independent = w @ cost(x1[:, 0] - z) @ w  # x1 has the law of the data: every pair
    assert rectified < 0.999 * independent


@pytest.mark.claim("thm-matching-rectify")
def test_rectified_pairs_may_cost_more_when_the_cost_is_not_convex():
    """N(0, 1) to N(3, 1): the flow moves all by 3; the root of a distance is concave there."""
    z = torch.linspace(-3, 3, 7, dtype=F64)[:, None]
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    moved = odeint(line_field(3.0, 1.0), z, ends, rtol=1e-9, atol=1e-9)[-1] - z
    assert (moved - 3).abs().max() < 1e-7
    nodes = np.linspace(-9, 9, 4001)
    weights = norm.pdf(nodes) * (nodes[1] - nodes[0])
    independent = weights @ np.sqrt(np.abs(3 + math.sqrt(2) * nodes))
    assert math.sqrt(3.0) > independent + 0.02
    assert weights @ np.abs(3 + math.sqrt(2) * nodes) > 3.0  # the distance itself is convex


# --- a correlated pair in the plane -------------------------------------------------------------

TURN = torch.tensor([[0.2, -1.1], [0.9, 0.5]], dtype=F64)
SPREAD = torch.tensor([[0.5, 0.0], [0.4, 0.3]], dtype=F64)
EYE = torch.eye(2, dtype=F64)
SIGMA = TURN @ TURN.T + SPREAD @ SPREAD.T  # covariance of x1 = TURN x0 + SPREAD xi


def covariances(t, cross, sigma=SIGMA):
    """Of x_t, and of x1 - x0 with x_t, for a Gaussian pair with Cov(x1, x0) = cross."""
    of_path = (1 - t) ** 2 * EYE + t * (1 - t) * (cross + cross.T) + t**2 * sigma
    with_path = (1 - t) * (cross - EYE) + t * (sigma - cross.T)
    return of_path, with_path


def matrix_field(cross, sigma=SIGMA):
    """The conditional mean velocity of such a pair, a linear map of the place."""

    def field(t, z):
        of_path, with_path = covariances(t, cross, sigma)
        return z @ torch.linalg.solve(of_path, with_path.T)

    return field


def maps(field, times):
    """The flow of a linear field as matrices, one for each time."""
    return odeint(field, EYE, times, rtol=1e-10, atol=1e-12).mT


@pytest.mark.claim("thm-matching-marginals")
def test_laws_of_a_coupled_pair_that_turns(measured):
    """The covariance of the flow at every time is that of the walkers, though no path is theirs."""
    times = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=F64)
    flow = maps(matrix_field(TURN), times)
    independent = maps(matrix_field(0 * EYE), times)
    for t, phi in zip(times, flow, strict=True):
        right = covariances(t, TURN)[0]
        assert measured((phi @ phi.T - right).abs().max(), "covariance of the flow") < 1e-8
    middle = covariances(0.5, TURN)[0]
    assert (independent[2] @ independent[2].T - middle).abs().max() > 0.05
    assert (flow[-1] - TURN).abs().max() > 0.05  # the flow does not send x0 to the mean of its x1


@pytest.mark.claim("thm-matching-marginals")
@pytest.mark.parametrize("end", [0.35, 0.8, 1.0])
def test_density_of_the_flow_in_the_plane(end, measured):
    """Through the package's flow, against the mixture of N(ty, a_t I)."""
    centers = torch.tensor([[2.0, 0.5], [-1.0, 1.5], [-0.5, -2.0]], dtype=F64)
    field = PosteriorVelocity(centers, 0.4, torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    x = torch.randn(20, 2, generator=seeded(3), dtype=F64)
    base = StandardNormal(2, dtype=F64)
    ours = Flow(base, [CNF(field, t1=end, rtol=1e-9, atol=1e-9)]).log_prob(x)
    a = (1 - end) ** 2 + (0.4 * end) ** 2
    parts = torch.cdist(x, end * centers).square() / (-2 * a) - math.log(math.tau * a)
    right = (parts + torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()).logsumexp(-1)
    assert measured((ours - right).abs().max(), "log-density") < 1e-6
    drift = Flow(base, [CNF(lambda t, z: field.posterior_mean(t, z) - z, t1=end)]).log_prob(x)
    assert (drift - right).abs().max() > 0.1


def gaussian_budget(cross):
    """Cost of the pair, cost of the flow, bend, floor, and the map of the flow."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    times = torch.tensor([0.0, *((nodes + 1) / 2), 1.0], dtype=F64)
    flow = maps(matrix_field(cross), times)
    velocity = EYE + SIGMA - cross - cross.T  # covariance of x1 - x0
    chord, bend, floor = flow[-1] - EYE, 0.0, 0.0
    for t, w, phi in zip(times[1:-1], weights / 2, flow[1:-1], strict=True):
        of_path, with_path = covariances(t, cross)
        slope = torch.linalg.solve(of_path, with_path.T).T
        bend += w * float((slope @ phi - chord).square().sum())
        floor += w * float((velocity - slope @ with_path.T).trace())
    return float(velocity.trace()), float(chord.square().sum()), bend, floor, flow[-1]


@pytest.mark.claim("cor-matching-budget")
@pytest.mark.parametrize("cross", [TURN, 0 * EYE])
def test_what_a_cheap_coupling_leaves(cross, measured):
    """Three rounds of reflow of Gaussian pairs, everything by matrices."""
    values = torch.linalg.eigvalsh(SIGMA)
    least = float((1 + values - 2 * values.sqrt()).sum())  # W2^2 to N(0, SIGMA)
    first, total, bends = None, 0.0, []
    for _ in range(3):
        cost, moved, bend, floor, end = gaussian_budget(cross)
        first = cost if first is None else first
        assert measured(abs(cost - moved - bend - floor), "the budget") < 1e-6
        assert bend + floor <= cost - least + 1e-9
        assert moved >= least - 1e-9
        total, cross = total + bend + floor, end
        bends.append(bend)
    assert measured(abs(total - (first - moved)), "telescoping sum") < 1e-6
    assert total <= first - least + 1e-9
    assert min(bends) <= first / 3
    assert total > 0.5 * (first - least) or abs(TURN - TURN.T).max() > 1  # attained without a turn


@pytest.mark.claim("cor-matching-budget")
def test_independent_gaussians_attain_the_bound(measured):
    cost, moved, bend, floor, _ = gaussian_budget(0 * EYE)
    values = torch.linalg.eigvalsh(SIGMA)
    least = float((1 + values - 2 * values.sqrt()).sum())
    assert measured(abs(bend + floor - (cost - least)), "equality") < 1e-6
    assert bend > 0.05 and floor > 0.5
    assert bend + floor > cost - least - moved  # not what is left beside the way of the flow


@pytest.mark.claim("thm-matching-rectify")
def test_every_quadratic_cost_of_a_pair_that_turns():
    """E c for c(u) = (e.u)^2 in every direction: the covariances are ordered."""
    end = maps(matrix_field(TURN), torch.tensor([0.0, 1.0], dtype=F64))[-1]
    before = EYE + SIGMA - TURN - TURN.T
    after = (end - EYE) @ (end - EYE).T
    assert torch.linalg.eigvalsh(before - after).min() > 1e-3
    assert (end @ end.T - SIGMA).abs().max() < 1e-8  # again a coupling


@pytest.mark.claim("thm-matching-rectify")
def test_rectifying_twice_changes_nothing_on_the_line(measured):
    """On the line the first pass is monotone, the optimal coupling: its lines never meet."""
    z = torch.linspace(-3, 3, 40, dtype=F64)[:, None]
    x1 = solve(mixture(), z, torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-10, atol=1e-12).y[-1]
    order = optimal_pairs(z, x1)
    assert order.tolist() == list(range(40))
    for t in (0.25, 0.5, 0.75):
        assert ((1 - t) * z + t * x1).diff(dim=0).min() > 0
    assert measured((x1.diff(dim=0) <= 0).sum(), "order broken") == 0


# --- the function itself ------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(6, 2), (6, 1, 4, 4)])
def test_points_of_any_shape(shape, device):
    x1 = torch.randn(shape, generator=seeded()).to(device)
    seen = []

    def field(t, x):
        seen.append((t.shape, x.shape))
        return t * x

    for coupling in ("independent", "ot"):
        loss = flow_matching_loss(field, x1, coupling=coupling, generator=seeded(1))
        assert loss.ndim == 0 and loss.device == x1.device
    assert seen == [((6, *[1] * (len(shape) - 1)), shape)] * 2


def test_generator_decides_and_gradients_flow():
    field = TimeMLP(2, [8], generator=seeded())
    x1 = torch.randn(32, 2, generator=seeded(1))
    one, two, other = (flow_matching_loss(field, x1, generator=seeded(s)) for s in (2, 2, 3))
    assert torch.equal(one, two) and not torch.equal(one, other)
    one.backward()
    assert all(p.grad.abs().max() > 0 for p in field.parameters())


def test_pairing_shrinks_the_loss_and_not_the_data():
    x1 = torch.randn(64, 2, generator=seeded()) * torch.tensor([3.0, 0.5])
    x0 = torch.randn(64, 2, generator=seeded(1))
    zero = [
        flow_matching_loss(lambda t, x: 0 * x, x1, x0, coupling, generator=seeded(2))
        for coupling in ("independent", "ot")
    ]
    best = (x1[optimal_pairs(x0, x1)] - x0).square().sum(-1).mean()
    torch.testing.assert_close(zero[1], best)
    torch.testing.assert_close(zero[0], (x1 - x0).square().sum(-1).mean())
    assert best < zero[0]


def test_velocity_with_one_time_for_each_point():
    field = PosteriorVelocity(torch.randn(5, 2, generator=seeded(), dtype=F64), 0.3)
    x = torch.randn(4, 2, generator=seeded(1), dtype=F64)
    t = torch.rand(4, 1, generator=seeded(2), dtype=F64)
    each = torch.stack([field(t[i, 0], x[i]) for i in range(4)])
    torch.testing.assert_close(field(t, x), each)


def test_bad_input_names_the_argument():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="coupling"):
        flow_matching_loss(lambda t, x: x, x, coupling="sinkhorn")
    with pytest.raises(ValueError, match="x0"):
        flow_matching_loss(lambda t, x: x, x, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="field"):
        flow_matching_loss(lambda t, x: x[:, :1], x)
    with pytest.raises(ValueError, match="sd"):
        PosteriorVelocity(x, -1.0)
    with pytest.raises(ValueError, match="weights"):
        PosteriorVelocity(x, 1.0, torch.zeros(3))
