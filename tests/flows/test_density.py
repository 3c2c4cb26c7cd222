"""Claims of the chapter on density estimation, the Gaussians, the flow and the kernel estimates."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar
from scipy.special import gamma
from scipy.stats import gaussian_kde, multivariate_normal

from nodes_tutorial.data import toy2d
from nodes_tutorial.flows import (
    Density,
    Flow,
    Gaussian,
    Inverse,
    KernelDensity,
    StandardNormal,
    Transform,
    fit_gaussian,
    loo_log_likelihood,
    select_bandwidth,
)

F64 = torch.float64
LINE = (-12.0, -2.0, -1.0, 0.0, 1.0, 2.0, 12.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def integral(f, ends=LINE):
    """Adaptive quadrature over the pieces of a line."""
    pieces = (quad(f, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in itertools.pairwise(ends))
    return math.fsum(pieces)


def normal(x, mean=0.0, sd=1.0):
    return math.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * math.sqrt(math.tau))


def two_bumps(x):
    return 0.6 * normal(x, -1.0, 0.7) + 0.4 * normal(x, 1.2, 0.5)


def two_bumps_second(x):
    """Its second derivative."""
    terms = ((0.6, -1.0, 0.7), (0.4, 1.2, 0.5))
    return sum(w * normal(x, m, s) * (((x - m) / s) ** 2 - 1) / s**2 for w, m, s in terms)


# --- divergence --------------------------------------------------------------------------------


def crossings(q):
    """Expected NLL of q under the two bumps, and the divergence in both directions."""
    ratio = lambda x: math.log(two_bumps(x)) - math.log(q(x))  # noqa: E731
    return (
        -integral(lambda x: two_bumps(x) * math.log(q(x))),
        integral(lambda x: two_bumps(x) * ratio(x)),
        -integral(lambda x: q(x) * ratio(x)),
    )


@pytest.mark.claim("prop-density-kl")
def test_expected_nll_is_entropy_plus_divergence(measured):
    entropy = -integral(lambda x: two_bumps(x) * math.log(two_bumps(x)))
    for mean, sd in ((0.0, 1.0), (1.0, 2.0), (-0.5, 1.5)):
        cross, forward, reverse = crossings(lambda x, m=mean, s=sd: normal(x, m, s))
        assert measured(abs(cross - entropy - forward), "nats") < 1e-10
        assert forward > 0 and cross > entropy
        assert abs(cross - entropy - reverse) > 1e-2  # the other direction is another number
        assert abs(cross + entropy - forward) > 1  # the sign of the entropy


@pytest.mark.claim("prop-density-kl")
def test_divergence_of_gaussians_in_closed_form_vanishes_only_when_equal(measured):
    for (m, s), (k, t) in itertools.product([(0.0, 1.0), (0.5, 1.0), (0.0, 1.2)], repeat=2):
        exact = math.log(t / s) + (s**2 + (m - k) ** 2) / (2 * t**2) - 0.5
        found = integral(
            lambda x, m=m, s=s, k=k, t=t: (
                normal(x, m, s) * (math.log(normal(x, m, s)) - math.log(normal(x, k, t)))
            )
        )
        assert measured(abs(found - exact), "nats") < 1e-10
        assert (found < 1e-12) == ((m, s) == (k, t))


@pytest.mark.claim("prop-density-kl")
def test_divergence_is_infinite_where_the_model_has_no_mass():
    x = toy2d.sample("8gaussians", 2000, rng(), dtype=F64)
    board = toy2d.sample("checkerboard", 2000, rng(), dtype=F64)
    there = toy2d.log_prob("8gaussians", x) - toy2d.log_prob("checkerboard", x)
    back = toy2d.log_prob("checkerboard", board) - toy2d.log_prob("8gaussians", board)
    assert there.mean() == math.inf  # the eight have mass outside the board
    assert 0 < back.mean() < math.inf  # a model may have mass elsewhere


@pytest.mark.claim("prop-density-kl")
def test_best_nll_on_its_own_points_is_optimistic_by_half_a_nat_over_n(measured):
    """N(theta, 1) on n = 3 draws of N(0, 1), averaged over the draws by a Gauss-Hermite rule."""
    node, weight = np.polynomial.hermite_e.hermegauss(6)
    weight = weight / weight.sum()
    fixed = fitted = 0.0
    for i in itertools.product(range(6), repeat=3):
        x, w = node[list(i)], weight[list(i)].prod()
        fixed += w * (0.5 * math.log(math.tau) + 0.5 * (x**2).mean())
        fitted += w * (0.5 * math.log(math.tau) + 0.5 * ((x - x.mean()) ** 2).mean())
    entropy = 0.5 * math.log(math.tau * math.e)
    assert measured(abs(fixed - entropy), "unbiased at a fixed parameter") < 1e-12
    assert measured(abs(fitted - (entropy - 1 / 6)), "optimistic at the fitted one") < 1e-12


# --- the Gaussian ------------------------------------------------------------------------------


def skewed(n=25, dim=3, seed=1):
    return randn(n, dim, seed=seed) @ randn(dim, dim, seed=2) + torch.arange(dim, dtype=F64)


@pytest.mark.claim("thm-density-gaussian")
def test_gaussian_fit_against_a_numerical_optimizer(measured):
    x = skewed()
    rows, columns = np.tril_indices(3)

    def nll(theta):
        factor = np.zeros((3, 3))
        factor[rows, columns] = theta[3:]
        factor[range(3), range(3)] = np.exp(factor.diagonal())
        white = np.linalg.solve(factor, (x.numpy() - theta[:3]).T)
        log_det = np.log(factor.diagonal()).sum()
        return 0.5 * (white**2).sum(0).mean() + log_det + 1.5 * math.log(math.tau)

    found = minimize(nll, np.zeros(9), method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    fit = fit_gaussian(x)
    ours = -fit.log_prob(x).mean()
    assert measured(abs(ours - found.fun), "smallest NLL") < 1e-9
    # the optimizer stops where its difference quotients end
    assert measured(np.abs(fit.mean.numpy() - found.x[:3]).max(), "mean") < 1e-5
    formula = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.cov(x.T, bias=True))[1]
    assert measured(abs(ours - formula), "half log det 2 pi e S") < 1e-12
    assert measured(abs(fit.entropy() - formula), "entropy") < 1e-12
    unbiased = Gaussian(fit.mean, x.T.cov())
    assert -unbiased.log_prob(x).mean() > ours + 1e-4  # 1/(n-1) is not the optimum
    shifted = Gaussian(fit.mean + 0.1, fit.covariance)
    assert -shifted.log_prob(x).mean() > ours + 1e-4


@pytest.mark.claim("thm-density-gaussian")
def test_gradient_of_the_likelihood_vanishes_at_the_fit_only(measured):
    x = skewed()
    fit = fit_gaussian(x)

    def gradient(mean, covariance):
        leaves = [mean.clone().requires_grad_(), covariance.clone().requires_grad_()]
        nll = -Gaussian(leaves[0], (leaves[1] + leaves[1].T) / 2).log_prob(x).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(nll, leaves)]).abs().max()

    assert measured(gradient(fit.mean, fit.covariance), "gradient") < 1e-12
    assert gradient(fit.mean, x.T.cov()) > 1e-3


@pytest.mark.claim("thm-density-gaussian")
def test_points_in_a_hyperplane_have_no_best_gaussian():
    x = skewed()
    flat = torch.cat([x, x.sum(1, keepdim=True)], 1)
    S = fit_gaussian(x).covariance
    assert S.shape == (3, 3)
    with pytest.raises(ValueError, match="x must hold points that span all 4 dimensions"):
        fit_gaussian(flat)
    scores = []
    for room in (1e-2, 1e-4, 1e-6, 1e-8):
        covariance = flat.T.cov(correction=0) + room * torch.eye(4, dtype=F64)
        scores.append(-Gaussian(flat.mean(0), covariance).log_prob(flat).mean())
    gains = -torch.stack(scores).diff()
    # one direction collapses: half of log 100 for each row
    assert (gains - math.log(10)).abs().max() < 0.1


@pytest.mark.claim("cor-density-moments")
def test_nearest_gaussian_has_the_moments(measured):
    mean = integral(lambda x: x * two_bumps(x))
    variance = integral(lambda x: (x - mean) ** 2 * two_bumps(x))
    entropy = -integral(lambda x: two_bumps(x) * math.log(two_bumps(x)))

    def divergence(theta):
        m, s = theta[0], math.exp(theta[1])
        cross = 0.5 * math.log(math.tau * s * s) + (variance + (mean - m) ** 2) / (2 * s * s)
        direct = integral(
            lambda x: two_bumps(x) * (math.log(two_bumps(x)) - math.log(normal(x, m, s)))
        )
        assert abs(cross - entropy - direct) < 1e-9
        return direct

    found = minimize(divergence, [0.3, 0.1], method="Nelder-Mead", options={"xatol": 1e-7})
    value = 0.5 * math.log(math.tau * math.e * variance) - entropy
    assert measured(abs(found.fun - value), "smallest divergence") < 1e-9
    assert measured(abs(found.x[0] - mean), "mean") < 1e-4  # flat at the minimum
    assert abs(math.exp(2 * found.x[1]) - variance) < 1e-4
    assert value > 0.05


@pytest.mark.claim("cor-density-moments")
def test_nearest_gaussian_of_the_plane_has_the_covariance(measured):
    """Cross-entropies of a mixture by Gauss and Hermite, at the moments and beside them."""
    node, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(20))
    weight = (weight / weight.sum()).outer(weight / weight.sum()).flatten()
    grid = torch.cartesian_prod(node, node)
    centers = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.0, -2.0]], dtype=F64)
    x = (centers[:, None] + grid @ torch.tensor([[0.6, 0.2], [0.0, 0.9]], dtype=F64)).flatten(0, 1)
    weight = (weight / 3).repeat(3)
    mean = weight @ x
    covariance = ((x - mean).mT * weight) @ (x - mean)

    def cross(mean, covariance):
        return -float(weight @ Gaussian(mean, covariance).log_prob(x))

    least = cross(mean, covariance)
    exact = 0.5 * float(torch.logdet(math.tau * math.e * covariance))
    assert measured(abs(least - exact), "cross-entropy") < 1e-12
    for k in range(50):
        shift, turn = (
            0.1 * randn(2, seed=k),
            torch.eye(2, dtype=F64) + 0.1 * randn(2, 2, seed=99 + k),
        )
        moved = turn @ covariance @ turn.mT
        assert cross(mean + shift, covariance) > least + 1e-6
        if not torch.allclose(moved, covariance, atol=1e-3):
            assert cross(mean, moved) > least + 1e-7


@pytest.mark.claim("cor-density-moments")
def test_best_gaussian_of_the_eight_is_the_first_rung(measured):
    variance = (4 / 1.414) ** 2 / 2 + (0.5 / 1.414) ** 2
    rung = Gaussian(torch.zeros(2, dtype=F64), variance * torch.eye(2, dtype=F64)).entropy()
    x = toy2d.sample("8gaussians", 400_000, rng(), dtype=F64)
    # five standard errors of a mean of 400,000
    assert measured(abs(fit_gaussian(x).entropy() - rung), "against a sample") < 0.005
    assert abs(rung - 4.2552) < 1e-4


def test_gaussian_is_scipys_and_samples_itself(measured):
    fit = fit_gaussian(skewed())
    other = multivariate_normal(fit.mean.numpy(), fit.covariance.numpy())
    x = randn(4, 5, 3)
    error = (fit.log_prob(x) - torch.from_numpy(other.logpdf(x.numpy()))).abs().max()
    assert measured(error, "log-density") < 1e-11
    assert fit.log_prob(x[0, 0]).shape == ()
    assert measured(abs(fit.entropy() - other.entropy()), "entropy") < 1e-12
    draws = fit.sample(200_000, rng(3))
    assert (draws.mean(0) - fit.mean).abs().max() < 0.05
    assert (draws.T.cov() - fit.covariance).abs().max() < 0.02 * fit.covariance.abs().max()
    x, log_prob = fit.rsample_and_log_prob(7, rng(4))
    assert torch.equal(x, fit.sample(7, rng(4))) and torch.equal(log_prob, fit.log_prob(x))


def test_densities_are_modules_that_move():
    x = skewed()
    for model in (StandardNormal(3, dtype=F64), fit_gaussian(x), KernelDensity(x)):
        assert isinstance(model, Density)
        single = model.float()
        assert single.sample(4, rng()).dtype == torch.float32
        assert single.log_prob(x.float()).dtype == torch.float32
        again = type(model)(3) if isinstance(model, StandardNormal) else None
        if again is not None:
            again.load_state_dict(model.state_dict())
        vmapped = torch.func.vmap(model.log_prob)(x.float())
        assert (vmapped - model.log_prob(x.float())).abs().max() < 1e-5


def test_standard_normal_on_images():
    base = StandardNormal((2, 3, 4), dtype=F64)
    x = base.sample(5, rng())
    assert x.shape == (5, 2, 3, 4)
    flat = multivariate_normal(np.zeros(24)).logpdf(x.flatten(1).numpy())
    assert (base.log_prob(x) - torch.from_numpy(flat)).abs().max() < 1e-12
    assert base.log_prob(x[0]).shape == ()


def test_wrong_arguments_are_named():
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="shape must be at least 1"):
        StandardNormal(0)
    with pytest.raises(ValueError, match=r"covariance must have shape \(2, 2\)"):
        Gaussian(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="covariance must be positive definite"):
        Gaussian(torch.zeros(2), -eye)
    with pytest.raises(ValueError, match=r"x must end in the axes \(2,\)"):
        StandardNormal(2).log_prob(torch.zeros(3))
    with pytest.raises(TypeError, match="base must be a Density"):
        Flow(torch.nn.Linear(2, 2), [])
    with pytest.raises(TypeError, match="transforms"):
        Flow(StandardNormal(2), [torch.nn.Linear(2, 2)])
    image = Transform()
    image.event_dims = 3
    with pytest.raises(ValueError, match="one number of event_dims"):
        Flow(StandardNormal(2), [Transform(), image])
    assert Inverse(image).event_dims == 3
    for bad in (-1.0, 0.0, math.inf, math.nan, "gcv"):
        with pytest.raises(ValueError, match="bandwidth must be"):
            KernelDensity(skewed(), bad)


# --- bias and variance of kernel estimates ------------------------------------------------------

KERNELS = {  # kernel, its support, kappa, R
    "gaussian": (normal, (-9.0, 0.0, 9.0), 1.0, 1 / (2 * math.sqrt(math.pi))),
    "epanechnikov": (lambda u: 0.75 * (1 - u * u), (-1.0, 0.0, 1.0), 1 / 5, 3 / 5),
}


def mean_of_estimate(kernel, support, x, h):
    return integral(lambda u: kernel(u) * two_bumps(x - h * u), support)


@pytest.mark.claim("thm-density-kde")
@pytest.mark.parametrize("name", KERNELS)
def test_bias_and_variance_of_a_kernel_estimate(name, measured):
    """By quadrature at three bandwidths, with the next power of h extrapolated away."""
    kernel, support, kappa, R = KERNELS[name]
    assert abs(integral(kernel, support) - 1) < 1e-12
    assert abs(integral(lambda u: u * u * kernel(u), support) - kappa) < 1e-12
    assert abs(integral(lambda u: kernel(u) ** 2, support) - R) < 1e-12
    for x in (-1.3, 0.2, 1.0):
        biases, variances = [], []
        for h in (0.04, 0.02, 0.01):
            mean = mean_of_estimate(kernel, support, x, h)
            second = integral(lambda u, x=x, h=h: kernel(u) ** 2 * two_bumps(x - h * u), support)
            biases.append((mean - two_bumps(x)) / h**2)
            variances.append(second - h * mean**2)  # n h Var
        fine = (4 * biases[1] - biases[0]) / 3, (4 * biases[2] - biases[1]) / 3
        bias = (16 * fine[1] - fine[0]) / 15
        exact = 0.5 * kappa * two_bumps_second(x)
        assert measured(abs(bias - exact), "bias over h^2") < 1e-6
        assert abs(2 * bias - exact) > 1e-3  # without the factor 1/2
        first = [2 * b - a for a, b in itertools.pairwise(variances)]
        variance = (4 * first[1] - first[0]) / 3
        # n h Var = R p - h p^2 + O(h^2): two extrapolations leave h^3
        assert measured(abs(variance - R * two_bumps(x)), "n h Var") < 1e-5
        assert abs(variance - two_bumps(x)) > 1e-2  # without R


@pytest.mark.claim("thm-density-kde")
@pytest.mark.parametrize("name", KERNELS)
def test_integrated_error_of_a_kernel_estimate(name, measured):
    kernel, support, kappa, R = KERNELS[name]
    node, weight = np.polynomial.legendre.leggauss(40)
    node, weight = (np.concatenate([node - 1, node + 1]) / 2, np.concatenate([weight] * 2) / 2)
    reach = support[-1]
    u, w = reach * node, reach * weight
    w = w * np.vectorize(kernel)(u)
    x = np.linspace(-9, 9, 4001)  # the trapezoidal rule is exact to rounding for such integrands
    cell = x[1] - x[0]
    p = np.vectorize(two_bumps)
    ratios = []
    for h in (0.1, 0.05):
        mean = (p(x[:, None] - h * u) * w).sum(1)
        ratios.append(((mean - p(x)) ** 2).sum() * cell / h**4)
        # R/(nh) less an integral over n that is at most sup p over n
        square = (mean**2).sum() * cell
        raw = (p(x[:, None] - h * u) * w * np.vectorize(kernel)(u)).sum() * cell / h
        assert measured(abs(raw - R / h), "integrated second moment") < 1e-8
        assert square <= p(x).max()
    leading = 0.25 * kappa**2 * (np.vectorize(two_bumps_second)(x) ** 2).sum() * cell
    # what is left after one extrapolation is of order h^4
    assert measured(abs((4 * ratios[1] - ratios[0]) / 3 / leading - 1), "bias") < 1e-3
    if kappa != 1:
        assert abs(ratios[1] / (leading / kappa) - 1) > 0.5  # kappa not squared


@pytest.mark.claim("thm-density-kde")
def test_bias_and_variance_in_the_plane(measured):
    """A mixture of two Gaussians, whose blur is known; one extrapolation in h squared."""
    centers, x, v = randn(2, 2, seed=11), torch.tensor([0.4, -0.3], dtype=F64), 0.5

    def mixture(x, variance):
        square = (x - centers).square().sum(-1)
        return (-square / (2 * variance)).exp().mean() / (math.tau * variance)

    hessian = torch.func.hessian(lambda x: mixture(x, v))(x)
    density, R = mixture(x, v), 1 / (4 * math.pi)
    biases, variances = [], []
    for h in (0.02, 0.01):
        mean = mixture(x, v + h**2)
        second = R / h**2 * mixture(x, v + h**2 / 2)
        biases.append((mean - density) / h**2)
        variances.append(h**2 * (second - mean**2))  # n h^d Var
    bias = (4 * biases[1] - biases[0]) / 3
    variance = (4 * variances[1] - variances[0]) / 3
    assert measured(abs(bias - hessian.trace() / 2), "bias over h^2") < 1e-6
    assert measured(abs(variance - R * density), "n h^d Var") < 1e-6
    assert abs(bias - hessian[0, 0] / 2) > 1e-2  # one second derivative is not the Laplacian
    assert abs(variance / 0.01 - R * density) > 1e-1  # h instead of h^2


@pytest.mark.claim("thm-density-kde")
def test_integrated_error_in_the_plane(measured):
    """Integrals of products of Gaussians for the mixture; the Laplacian on a grid."""
    centers, v, R = randn(2, 2, seed=11), 0.5, 1 / (4 * math.pi)

    def mixture(x, variance):
        square = (x[..., None, :] - centers).square().sum(-1)
        return (-square / (2 * variance)).exp().mean(-1) / (math.tau * variance)

    def overlap(variances):
        return mixture(centers, variances).mean()

    side = torch.linspace(-6, 6, 121, dtype=F64)  # exact to rounding for such integrands
    hessian = torch.func.hessian(lambda x: mixture(x, v))
    second = torch.func.vmap(hessian)(torch.cartesian_prod(side, side))
    laplacian = second.diagonal(dim1=1, dim2=2).sum(-1)
    leading = laplacian.square().sum() * 0.1**2 / 4
    ratios, steps = [], (0.08, 0.04, 0.02)
    for h in steps:
        bias = overlap(2 * v + 2 * h**2) - 2 * overlap(2 * v + h**2) + overlap(2 * v)
        ratios.append(bias / h**4)
        variance = R / h**2 - overlap(2 * v + 2 * h**2)  # n times, integrated
        assert abs(h**2 * variance - R) <= h**2 / (math.tau * v)  # sup p is at most this
        assert abs(h * variance - R) > 0.5  # h^1 in place of h^d
    fine = [(4 * b - a) / 3 for a, b in itertools.pairwise(ratios)]
    limit = (16 * fine[1] - fine[0]) / 15
    assert measured(abs(limit / leading - 1), "integrated bias") < 1e-6
    one = second[:, 0, 0].square().sum() * 0.1**2 / 4
    assert abs(limit / one - 1) > 0.1  # one second derivative is not the Laplacian


@pytest.mark.claim("thm-density-kde")
def test_variance_of_two_points_by_enumeration(measured):
    """A law with three atoms in the plane: all nine samples of two points."""
    atoms, weights = randn(3, 2, seed=12), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    x, h = torch.zeros(2, dtype=F64), 0.8
    bump = (-(x - atoms).square().sum(-1) / (2 * h**2)).exp() / (math.tau * h**2)
    values = (bump[:, None] + bump) / 2
    chances = weights[:, None] * weights
    mean = (chances * values).sum()
    exact = (chances * (values - mean) ** 2).sum()
    formula = ((weights * bump**2).sum() - (weights * bump).sum() ** 2) / 2
    assert measured(abs(exact - formula), "variance") < 1e-14
    assert abs(exact - (weights * bump**2).sum() / 2) > 1e-4  # without the squared mean
    assert abs(exact - 2 * formula) > 1e-4  # without 1/n


@pytest.mark.claim("cor-density-bandwidth")
@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_best_bandwidth_against_a_numerical_minimum(d, measured):
    kappa, R, rough, n = 0.7, 0.3, 1.9, 5000
    total = lambda log_h: (  # noqa: E731
        0.25 * kappa**2 * math.exp(4 * log_h) * rough + R / n * math.exp(-d * log_h)
    )
    found = minimize_scalar(total, bounds=(-8, 3), method="bounded", options={"xatol": 1e-10})
    best = (d * R / (kappa**2 * n * rough)) ** (1 / (d + 4))
    # flat at the minimum: the square root of the rounding
    assert measured(abs(math.exp(found.x) / best - 1), "bandwidth") < 1e-6
    value = (d + 4) / (4 * d) * kappa**2 * best**4 * rough
    assert measured(abs(found.fun / value - 1), "value") < 1e-12
    assert total(math.log(best * 1.1)) > found.fun < total(math.log(best / 1.1))
    wrong = (R / (kappa**2 * n * rough)) ** (1 / (d + 4))  # without d
    assert d == 1 or total(math.log(wrong)) > found.fun * (1 + 1e-3)


def roughness_of_normal(d, sd):
    """Integral of the squared Laplacian of N(0, sd^2 I), by quadrature over the radius."""
    shell = 2 * math.pi ** (d / 2) / gamma(d / 2)

    def at(r):
        p = math.exp(-0.5 * (r / sd) ** 2) / (math.tau * sd * sd) ** (d / 2)
        first, second = -r / sd**2 * p, (r * r / sd**4 - 1 / sd**2) * p
        laplacian = second + (d - 1) * (first / r if r else -p / sd**2)
        return shell * r ** (d - 1) * laplacian**2

    return integral(at, (0.0, sd, 3 * sd, 14 * sd))


@pytest.mark.claim("prop-density-silverman")
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_rules_for_the_bandwidth(d, measured):
    n, sd = 300, 1.7
    R = (4 * math.pi) ** (-d / 2)
    best = (d * R / (n * roughness_of_normal(d, sd))) ** (1 / (d + 4)) / sd
    x = randn(n, d, seed=d)
    silverman = float(KernelDensity(x, "silverman").bandwidth)
    scott = float(KernelDensity(x, "scott").bandwidth)
    assert measured(abs(silverman / best - 1), "against the quadrature") < 1e-9
    assert measured(abs(scott - n ** (-1 / (d + 4))), "Scott") < 1e-15
    if d == 2:
        assert abs(scott - silverman) < 1e-15
    else:
        assert abs(scott - silverman) > 1e-3
    other = gaussian_kde(x.T.numpy())
    assert abs(other.scotts_factor() - scott) < 1e-12
    assert abs(other.silverman_factor() - silverman) < 1e-12
    wrong = (n * (d + 2) / 4) ** (-1 / (d + 2))
    assert abs(wrong - best) > 1e-2


@pytest.mark.claim("prop-density-silverman")
def test_the_estimate_moves_with_the_points(measured):
    x, at = skewed(60), randn(9, 3, seed=5)
    A, shift = randn(3, 3, seed=6), randn(3, seed=7)
    before = KernelDensity(x, 0.4).log_prob(at)
    after = KernelDensity(x @ A.T + shift, 0.4).log_prob(at @ A.T + shift)
    error = (before - after - A.det().abs().log()).abs().max()
    assert measured(error, "equivariance") < 1e-10
    assert (before - after).abs().max() > 0.1  # the volume counts


@pytest.mark.claim("prop-density-silverman")
@pytest.mark.parametrize("d", [1, 2, 3])
def test_factor_for_any_covariance(d, measured):
    """MISE for N(0, Sigma) and bumps of covariance h^2 Sigma, by products of Gaussians."""
    eye = torch.eye(d, dtype=F64)
    root = torch.diag(torch.arange(1.0, d + 1, dtype=F64)) + 0.3 * randn(d, d, seed=21)
    sigma, n = root @ root.T, 10**8

    def overlap(covariance):
        return (math.tau * covariance).det() ** -0.5

    def mise(h, sigma, bump):
        mean = sigma + h**2 * bump
        bias = overlap(2 * mean) - 2 * overlap(sigma + mean) + overlap(2 * sigma)
        return bias + (overlap(2 * h**2 * bump) - overlap(2 * mean)) / n

    silverman = (4 / ((d + 2) * n)) ** (1 / (d + 4))
    h = silverman * torch.logspace(-0.3, 0.3, 401, dtype=F64)
    whole = torch.stack([mise(k, sigma, sigma) for k in h])
    white = torch.stack([mise(k, eye, eye) for k in h])
    error = (whole * root.det().abs() / white - 1).abs().max()
    assert measured(error, "MISE over that of I, times det L") < 1e-6
    # the grid has steps of a third of a percent; the terms left out are of order h^2
    assert abs(h[whole.argmin()] / silverman - 1) < 0.02
    if d > 1:  # round bumps for points that are not round
        other = torch.stack([mise(k, sigma, eye) for k in h])
        assert abs(h[other.argmin()] / silverman - 1) > 0.1


@pytest.mark.claim("prop-density-loo")
def test_leave_one_out_is_unbiased_for_one_point_less(measured):
    """All 4^3 samples of a law with four atoms: no drawing."""
    atoms = torch.tensor([-1.0, 0.2, 0.5, 2.0], dtype=F64)
    h = torch.tensor([0.3, 0.7, 2.0], dtype=F64)

    def estimate(at, data):
        square = (at - data[:, None]).square() / h.square()
        return (-0.5 * square).exp().mean(0) / (h * math.sqrt(math.tau))

    left_out, itself, expected = [], [], []
    for i in itertools.product(range(4), repeat=3):
        x = atoms[list(i)]
        left_out.append(loo_log_likelihood(x[:, None], h))
        itself.append(torch.stack([estimate(point, x).log() for point in x]).mean(0))
        expected.append(estimate(x[2], x[:2]).log())
    left_out, itself, expected = (torch.stack(v).mean(0) for v in (left_out, itself, expected))
    assert measured((left_out - expected).abs().max(), "nats") < 1e-12
    assert (itself - expected).abs().min() > 1e-2  # with the point itself it is optimistic


@pytest.mark.claim("prop-density-loo")
def test_where_the_likelihood_of_the_bandwidth_goes():
    x = randn(40, 2)
    h = torch.logspace(-6, 6, 13, dtype=F64)
    left_out = loo_log_likelihood(x, h)
    assert left_out[0] < -1e6 and left_out[-1] < -20
    assert 2 < left_out.argmax() < 9
    own = [KernelDensity(x, float(v)).log_prob(x).mean() for v in h[:4]]
    assert own[0] > own[1] > own[2] > own[3] and own[0] > 20
    one_single = torch.cat([x, x[:-1]])
    assert loo_log_likelihood(one_single, h)[0] < -1e6
    twins = loo_log_likelihood(torch.cat([x, x]), h)
    assert twins[0] > 20 and twins[0] > twins[1] > twins[2]
    with pytest.raises(ValueError, match="x must not repeat every point"):
        KernelDensity(torch.cat([x, x]), "cv")


# --- the kernel estimate as an algorithm --------------------------------------------------------


def test_kernel_density_is_scipys_and_the_slow_sum(measured):
    x, at = skewed(80), 2 * randn(6, 5, 3, seed=3)
    other = gaussian_kde(x.T.numpy(), bw_method=0.35)
    ours = KernelDensity(x, 0.35)
    exact = torch.from_numpy(other.logpdf(at.reshape(-1, 3).T.numpy())).reshape(6, 5)
    assert measured((ours.log_prob(at) - exact).abs().max(), "log-density") < 1e-10
    slow = [
        multivariate_normal(mean, 0.35**2 * np.cov(x.T.numpy())).logpdf(at[0, 0].numpy())
        for mean in x.numpy()
    ]
    slow = torch.tensor(slow).logsumexp(0) - math.log(80)
    assert abs(ours.log_prob(at[0, 0]) - slow) < 1e-10


def test_mass_is_one_only_with_the_dimension_in_the_exponent(measured):
    """Seven points in the plane: h^d with d = 2, not h^n, and a kernel of mass one."""
    x, h = randn(7, 2), 0.5
    edge = torch.linspace(-9, 9, 361, dtype=F64)
    at, cell = torch.cartesian_prod(edge, edge), 0.05**2
    mass = KernelDensity(x, h).log_prob(at).exp().sum() * cell
    assert measured(abs(mass - 1), "mass") < 1e-9
    bumps = (-0.5 * ((at[:, None] - x) / h).square().sum(-1)).exp() / math.tau
    by_hand = lambda power: bumps.mean(1).sum() * cell / h**power  # noqa: E731
    assert measured(abs(by_hand(2) - 1), "mass by hand") < 1e-9
    assert by_hand(7) > 30  # n in the exponent
    assert by_hand(2) * math.tau > 6  # a kernel that is only non-negative


def test_leave_one_out_is_the_slow_loop(measured):
    x, h = randn(30, 3), torch.tensor([0.05, 0.4, 3.0], dtype=F64)
    slow = torch.zeros(3, dtype=F64)
    for i in range(30):
        rest = torch.cat([x[:i], x[i + 1 :]])
        square = (rest - x[i]).square().sum(1)
        terms = -square[:, None] / (2 * h**2) - 3 * h.log() - 1.5 * math.log(math.tau)
        slow += (terms.logsumexp(0) - math.log(29)) / 30
    assert measured((loo_log_likelihood(x, h) - slow).abs().max(), "nats") < 1e-10


def test_chunks_change_nothing(monkeypatch):
    x, at, h = skewed(70), randn(33, 3, seed=4), torch.tensor([0.2, 0.5], dtype=F64)
    model = KernelDensity(x, 0.3)
    whole = model.log_prob(at), loo_log_likelihood(x, h)
    sizes, module = [], inspect.unwrap(loo_log_likelihood).__globals__
    spy = module["squared_distances"]
    monkeypatch.setitem(module, "squared_distances", lambda a, b: sizes.append(len(a)) or spy(a, b))
    monkeypatch.setitem(module, "_PAIRS", 500)
    assert (model.log_prob(at) - whole[0]).abs().max() < 1e-12
    assert (loo_log_likelihood(x, h) - whole[1]).abs().max() < 1e-12
    assert max(sizes) * 70 <= 500  # memory is bounded by the pairs


def test_search_finds_the_best_bandwidth():
    for x in (randn(300, 1), toy2d.sample("8gaussians", 400, rng(), dtype=F64), randn(200, 5)):
        white = KernelDensity(x).points
        fine = torch.logspace(-2, 0.5, 2000, dtype=F64)
        scores = torch.cat([loo_log_likelihood(white, part) for part in fine.split(50)])
        best, found = fine[scores.argmax()], select_bandwidth(white)
        assert abs(found / best - 1) < 0.01
        assert scores.max() - loo_log_likelihood(white, torch.tensor([found], dtype=F64)) < 1e-5
        assert float(KernelDensity(x, "cv").bandwidth) == found


def test_sampling_the_kernel_estimate():
    x = skewed(12)
    model = KernelDensity(x, 0.3)
    draws = model.sample(100_000, rng(1))
    assert torch.equal(draws, model.sample(100_000, rng(1)))
    assert (draws.mean(0) - x.mean(0)).abs().max() < 0.05
    exact = fit_gaussian(x).covariance + 0.09 * x.T.cov()
    assert (draws.T.cov() - exact).abs().max() < 0.03 * exact.abs().max()
    y, log_prob = model.rsample_and_log_prob(5, rng(2))
    assert torch.equal(log_prob, model.log_prob(y))


def test_gradient_of_the_kernel_estimate():
    model = KernelDensity(skewed(20), 0.5)
    assert torch.autograd.gradcheck(model.log_prob, randn(3, 3, seed=8).requires_grad_())


def test_state_dict_keeps_the_bandwidth():
    x = skewed(20)
    model, other = KernelDensity(x, 0.5), KernelDensity(skewed(20, seed=9), 0.1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.log_prob(x), other.log_prob(x))


def test_far_points_and_single_precision_stay_finite():
    x = toy2d.sample("8gaussians", 500, rng())
    model = KernelDensity(x, 0.02)
    far = torch.tensor([[50.0, 50.0], [0.0, 0.0]])
    exact = KernelDensity(x.double(), 0.02).log_prob(far.double())
    assert model.log_prob(far).isfinite().all()
    assert ((model.log_prob(far) - exact) / exact).abs().max() < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_densities_on_cuda():
    x = skewed(50).cuda()
    for model in (fit_gaussian(x), KernelDensity(x, "cv"), StandardNormal(3, device="cuda")):
        assert model.log_prob(x.to(model.sample(1, rng()).dtype)).is_cuda
        assert model.sample(3, rng()).is_cuda
