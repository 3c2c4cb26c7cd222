"""Claims of the chapter on known unknowns: what a sequence tells of an equation it obeys."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipk
from torch import nn

from nodes_tutorial.nets import MLP
from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.known_unknowns.films import FromAngle, fit_batches
from nodes_tutorial.ode.known_unknowns.forecast import LSTMForecast
from nodes_tutorial.ode.known_unknowns.goku import GOKUNet
from nodes_tutorial.ode.known_unknowns.identifiability import grounding_loss, identify
from nodes_tutorial.ode.known_unknowns.lstm import LSTM
from nodes_tutorial.ode.known_unknowns.sequences import pendulum_sequences
from nodes_tutorial.ode.known_unknowns.systems import (
    GRAVITY,
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)
from tests.ode.films_cases import F64, TIGHT, films, rng

# --- what a trajectory tells --------------------------------------------------------------------


@pytest.mark.claim("thm-unknowns-identifiable")
def test_parameters_from_a_trajectory_and_the_kernel_of_the_gram_matrix(measured):
    """A field that is affine in three parameters, of which two enter through their sum alone.

    The path solves the equation, by scipy, and its derivative is taken by differences.
    """
    truth, h = np.array([0.7, -1.3, 0.4]), 1e-3
    grid = np.arange(0, 2.5, h)

    def columns(y):
        return np.stack([y**2, y**2, np.stack([np.sin(y[1]), y[0]])], -1)

    def slope(t, y):
        return np.array([y[1], -(y[0] ** 3)]) + columns(y) @ truth

    run = solve_ivp(slope, (0, 2.5), [0.8, -0.3], "DOP853", grid, rtol=1e-12, atol=1e-13)
    y = torch.from_numpy(run.y.T.copy())
    moving = (y[:-4] - 8 * y[1:-3] + 8 * y[3:-1] - y[4:]) / (12 * h)
    z, t = y[2:-2], torch.from_numpy(grid[2:-2])
    f0 = torch.stack([z[:, 1], -(z[:, 0] ** 3)], -1)
    mixed = torch.stack([z[:, 1].sin(), z[:, 0]], -1)
    design = torch.stack([z**2, z**2, mixed], -1)
    found, gram = identify(design[..., 1:], moving - f0, t)
    both = torch.tensor([truth[0] + truth[1], truth[2]], dtype=F64)
    assert measured((found - both).abs().max(), "sum and third parameter") < 1e-8
    assert torch.linalg.eigvalsh(gram).min() > 1e-2
    assert (identify(design[..., 1:], moving, t)[0] - both).abs().max() > 0.1  # without f0
    full = torch.trapezoid(design.mT @ design, t, dim=-3)
    kernel = torch.tensor([1.0, -1.0, 0.0], dtype=F64)
    assert (full @ kernel).abs().max() < 1e-12

    def path(theta):
        truth[:] = theta
        return solve_ivp(slope, (0, 2.5), [0.8, -0.3], "DOP853", grid, rtol=1e-12, atol=1e-13).y

    along = path(truth + 5 * kernel.numpy())
    assert measured(np.abs(along - run.y).max(), "path moved along the kernel") < 1e-9
    assert np.abs(path(truth + np.array([0.1, 0.1, 0.0])) - run.y).max() > 1e-2  # not along it


@pytest.mark.claim("cor-unknowns-pendulum")
@pytest.mark.parametrize("friction", [0.0, 0.7])
def test_length_and_friction_from_the_angle(friction, measured):
    """Angle alone, its derivatives by high-order differences of a tight scipy solution."""
    length, h = 1.6, 1e-3
    t = np.arange(0, 2.5, h)
    run = solve_ivp(
        lambda t, z: [z[1], -GRAVITY / length * np.sin(z[0]) - friction * z[1]],
        (0, 2.5), [0.4, -0.8], "DOP853", t, rtol=1e-12, atol=1e-13,
    )  # fmt: skip
    angle = torch.from_numpy(run.y[0])
    speed = (angle[:-4] - 8 * angle[1:-3] + 8 * angle[3:-1] - angle[4:]) / (12 * h)
    outer, middle = angle[:-4] + angle[4:], angle[1:-3] + angle[3:-1]
    bend = (16 * middle - outer - 30 * angle[2:-2]) / (12 * h**2)
    design = torch.stack([-GRAVITY * angle[2:-2].sin(), -speed], -1)[:, None]
    found, gram = identify(design, bend[:, None], torch.from_numpy(t[2:-2]))
    # 1e-6: second differences of a solution known to 1e-12
    assert measured((1 / found[0] - length).abs(), "length from the angle") < 1e-5
    assert measured((found[1] - friction).abs(), "friction from the angle") < 1e-5
    assert torch.linalg.eigvalsh(gram).min() > 1e-2


@pytest.mark.claim("cor-unknowns-pendulum")
def test_two_lengths_never_share_a_moving_trajectory_and_gravity_hides(measured):
    t, z, theta = films(5)
    for other in (0.99, 1.01):
        path = odeint(lambda t, y, o=other: pendulum(t, y, o * theta), z[:, 0], t, **TIGHT)
        gap = (path.transpose(0, 1) - z).abs().amax((1, 2))
        assert (gap > 1e-3).all()
    rest = torch.zeros(7, 2, dtype=F64)
    rest[:, 0] = math.pi * torch.arange(7, dtype=F64)  # equilibria tell nothing
    one, two = (pendulum(t, rest, torch.tensor([v], dtype=F64)) for v in (1.0, 2.0))
    assert measured((one - two).abs().max(), "fields of two lengths at rest") < 1e-13
    # g and l as two parameters: both columns along the truth are parallel, G has a kernel
    design = torch.stack([-z[..., 0].sin() / 1.5, GRAVITY / 1.5**2 * z[..., 0].sin()], -1)
    gram = torch.trapezoid(design[..., None] * design[..., None, :], t, dim=-3)
    ray = torch.tensor([GRAVITY, 1.5], dtype=F64)
    assert measured((gram @ ray).abs().max(), "G on the ray (cg, cl)") < 1e-12
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(gram - 1e-12 * torch.eye(2, dtype=F64))


@pytest.mark.claim("cor-unknowns-pendulum")
def test_gravity_and_length_of_a_solved_path_move_it_in_one_direction_only(measured):
    """The sensitivity of the solved path to (g, l) has rank one, and (g, l) is its kernel."""
    t, z, theta = films(1, steps=12)
    both = torch.tensor([GRAVITY, float(theta[0, 0])], dtype=F64)

    def path(both):
        """The package's pendulum has g = 10: another g is another unit of time."""
        g, length = both
        unit = (g / GRAVITY).sqrt()
        start = z[:, 0] / torch.stack([torch.ones_like(unit), unit])
        y = odeint(lambda s, y: pendulum(s, y, length.expand(1, 1)), start, t * unit, **TIGHT)
        return y[..., 0].flatten()

    shifts = 1e-4 * torch.eye(2, dtype=F64)
    slope = torch.stack([(path(both + d) - path(both - d)) / 2e-4 for d in shifts], 1)
    assert measured((slope @ both).abs().max(), "along the ray, by differences") < 1e-6
    assert slope.norm(dim=0).min() > 1e-2
    along = path(3 * both) - path(both)
    assert measured(along.abs().max(), "three times g and l") < 1e-8
    assert (path(both * torch.tensor([3.0, 1.0], dtype=F64)) - path(both)).abs().max() > 0.1


@pytest.mark.claim("prop-unknowns-symmetry")
def test_mirrored_pendulum_gives_the_same_films_and_labels_tell(measured):
    t, z, theta = films(5)
    mirrored = odeint(lambda t, y: pendulum(t, y, theta), -z[:, 0], t, **TIGHT).transpose(0, 1)
    assert measured((mirrored + z).abs().max(), "solution from the mirrored start") < 1e-9
    pictures = render_rod(z[..., 0])
    turned = render_rod(-mirrored[..., 0])  # the emission that undoes the mirror
    assert measured((turned - pictures).abs().max(), "films of both models") < 1e-8
    flipped = render_rod(mirrored[..., 0]).view(5, -1, 16, 16).flip(-1).flatten(2)
    assert (flipped - pictures).abs().max() < 1e-8  # which is the mirror image
    mask = torch.rand(z.shape[:2], generator=rng(3)) < 0.02
    expected = 4 * z[mask].square().sum(-1).mean()
    found = grounding_loss(mirrored, z, mask)
    assert measured((found - expected).abs(), "grounding loss of the mirror") < 1e-9
    assert expected > 0.1 and grounding_loss(z, z, mask) == 0
    # reflecting the angle alone is no symmetry
    half = z[:, 0] * torch.tensor([-1.0, 1.0], dtype=F64)
    wrong = odeint(lambda t, y: pendulum(t, y, theta), half, t, **TIGHT).transpose(0, 1)
    assert (wrong[..., 0] + z[..., 0]).abs().max() > 0.1


@pytest.mark.claim("prop-unknowns-symmetry")
def test_a_nonlinear_symmetry_that_moves_the_parameter(measured):
    """S(z) = z³ carries z' = -θz to z' = -3θz; without moving θ it does not."""
    t, theta = torch.linspace(0, 2, 9, dtype=F64), torch.tensor([[0.4], [1.1]], dtype=F64)
    z0 = torch.tensor([[0.8], [-1.3]], dtype=F64)

    def model(first, rate, emission):
        net = GOKUNet(lambda t, z, p: -p * z, 1, 1, 1, emission=emission, dtype=F64, **TIGHT,
                      parameter_link=torch.exp, generator=rng())  # fmt: skip
        return net.decode(torch.cat([first, rate.log()], -1)[None], t).x

    class Emission(nn.Module):
        def __init__(self, undo):
            super().__init__()
            self.undo = undo

        def forward(self, z):
            return torch.sin(self.undo(z))

    def root(z):
        return z.sign() * z.abs() ** (1 / 3)

    plain = model(z0, theta, Emission(lambda z: z))
    moved = model(z0**3, 3 * theta, Emission(root))
    assert measured((moved - plain).abs().max(), "sequences of both models") < 1e-8
    assert (model(z0**3, theta, Emission(root)) - plain).abs().max() > 1e-2


@pytest.mark.claim("prop-unknowns-symmetry")
def test_scale_is_free_when_the_equation_is_linear_and_nearly_free_otherwise(measured):
    t, z, theta = films(5)
    omega = (GRAVITY / theta).sqrt()
    phase = omega * t

    def linear(z0):
        return z0[:, :1] * phase.cos() + z0[:, 1:] / omega * phase.sin()

    exact = odeint(
        lambda t, y: torch.stack([y[:, 1], -GRAVITY / theta[:, 0] * y[:, 0]], -1),
        3 * z[:, 0], t, **TIGHT,
    )  # fmt: skip
    error = exact[..., 0].T - 3 * linear(z[:, 0])
    assert measured(error.abs().max(), "tripled small swing") < 1e-8
    tripled = odeint(lambda t, y: pendulum(t, y, theta), 3 * z[:, 0], t, **TIGHT)[..., 0].T
    assert (tripled - 3 * z[..., 0]).abs().max() > 0.1  # the sine sees the amplitude
    mask = torch.ones(z.shape[:2], dtype=torch.bool)
    gap = grounding_loss(3 * z, z, mask) - 4 * z.square().sum(-1).mean()
    assert gap.abs() < 1e-12


@pytest.mark.claim("prop-unknowns-period")
@pytest.mark.parametrize("amplitude", [0.1, 0.5236, 0.7, 2.0])
def test_period_of_a_pendulum(amplitude, measured):
    length = 1.7
    k2 = math.sin(amplitude / 2) ** 2
    period = 4 * math.sqrt(length / GRAVITY) * ellipk(k2)  # scipy's argument is k²
    t = torch.tensor([0, period / 4, period / 2, period], dtype=F64)
    theta = torch.tensor([[length]], dtype=F64)
    z0 = torch.tensor([[amplitude, 0.0]], dtype=F64)
    z = odeint(lambda t, z: pendulum(t, z, theta), z0, t, **TIGHT)[:, 0]
    assert measured(z[1, 0].abs(), "angle after a quarter period") < 1e-8
    assert measured((z[2] + z0[0]).abs().max(), "half a period") < 1e-8
    assert measured((z[3] - z0[0]).abs().max(), "a period") < 1e-8
    small = 2 * math.pi * math.sqrt(length / GRAVITY)
    series = small * (1 + amplitude**2 / 16 + 11 * amplitude**4 / 3072)
    assert small < period and abs(series - period) < 3.5e-4 * amplitude**6 * small
    wrong = small * (1 + amplitude**2 / 16 + 10 * amplitude**4 / 3072)
    assert abs(wrong - period) > 3.5e-4 * amplitude**6 * small
    assert abs(small - period) > 0.9 * small * amplitude**2 / 16
    wider = 1.3 * amplitude  # a model that believes in this amplitude and has the right period
    shorter = length * (ellipk(k2) / ellipk(math.sin(wider / 2) ** 2)) ** 2
    start = torch.tensor([[wider, 0.0]], dtype=F64)
    theta = torch.tensor([[shorter]], dtype=F64)
    again = odeint(lambda t, z: pendulum(t, z, theta), start, t[[0, 3]], **TIGHT)[1]
    assert measured((again - start).abs().max(), "a wider swing of a shorter pendulum") < 1e-8
    first = length * (1 - (wider**2 - amplitude**2) / 8)
    assert abs(shorter - first) < 0.02 * wider**4 * length


# --- the bound ----------------------------------------------------------------------------------


def linear_model(noise=0.3):
    """z' = -z from a standard normal start, both signals linear: everything in closed form."""
    net = GOKUNet(
        lambda t, z, theta: -z, 1, 0, 2, hidden=4, noise=noise, generator=rng(), dtype=F64,
        emission=nn.Linear(1, 2, dtype=F64), **TIGHT,
    )  # fmt: skip
    t = torch.linspace(0, 1.5, 6, dtype=F64)
    design = (torch.exp(-t)[:, None] * net.emission.weight[:, 0]).reshape(-1).detach()
    x = torch.randn(1, 6, 2, generator=rng(5), dtype=F64)
    return net, t, design, x, (x - net.emission.bias.detach()).reshape(-1)


@pytest.mark.claim("thm-unknowns-elbo")
def test_bound_and_its_gap_in_closed_form(measured):
    net, t, a, x, y = linear_model()
    s2 = net.noise**2
    cov = torch.outer(a, a) + s2 * torch.eye(len(a), dtype=F64)
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(a), cov).log_prob(y)
    precision = 1 + a @ a / s2
    best, std = (a @ y / s2) / precision, precision**-0.5
    for shift, factor in ((0.0, 1.0), (0.2, 1.0), (-0.1, 1.7)):
        mean, scale = best + shift, factor * std
        with torch.no_grad():
            net.to_state.weights[0].zero_()
            net.to_state.biases[0].copy_(torch.stack([mean, scale.log() + 3]))
        # the reconstruction is quadratic in the sample: two points give its mean exactly
        draws = [
            (net.decode((mean + e * scale).view(1, 1, 1), t).x[0] - x).square() for e in (-1, 1)
        ]
        mean_square = sum(d.sum() for d in draws) / 2
        bound = -0.5 * mean_square / s2 - 0.5 * len(a) * math.log(2 * math.pi * s2)
        divergence = net.loss(x, t, generator=rng()).divergence
        gap = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, scale), torch.distributions.Normal(best, std)
        )
        error = evidence - (bound - divergence) - gap
        assert measured(error.abs(), "evidence minus bound minus gap") < 1e-8
        assert shift == 0 or evidence > bound - divergence + 1e-3
        # one sample, from the generator that is passed
        draw = torch.randn(1, 1, 1, generator=rng(9), dtype=F64)
        miss = net.decode(mean + scale * draw, t).x[0] - x
        one = 0.5 * miss.square().sum() / s2 + 0.5 * len(a) * math.log(2 * math.pi * s2)
        parts = net.loss(x, t, generator=rng(9), beta=0.5)
        assert (parts.reconstruction - one).abs() < 1e-9
        assert (parts.loss - one - 0.5 * divergence).abs() < 1e-9


@pytest.mark.claim("thm-unknowns-elbo")
def test_gradient_of_the_loss_by_differences(measured):
    kind = {"hidden": 6, "generator": rng(1), "dtype": F64, **TIGHT}
    net = GOKUNet(pendulum, 2, 1, 5, **kind)
    x, t = torch.rand(3, 7, 5, generator=rng(2), dtype=F64), 0.1 * torch.arange(7, dtype=F64)
    truth, mask = torch.rand(3, 7, 2, generator=rng(3), dtype=F64), torch.ones(3, 7) > 0

    def loss():
        kind = {"truth": truth, "mask": mask, "weight": 2.0}
        return net.loss(x, t, generator=rng(4), beta=0.7, **kind).loss

    loss().backward()
    for name in ("embed", "readers", "to_state", "to_theta", "emission"):
        weight = next(getattr(net, name).parameters())
        step = torch.randn(weight.shape, generator=rng(5), dtype=F64)
        values = []
        for e in (-1e-5, 1e-5):
            with torch.no_grad():
                weight.add_(e * step)
                values.append(loss())
                weight.sub_(e * step)
        slope = (values[1] - values[0]) / 2e-5
        error = ((weight.grad * step).sum() - slope).abs() / slope.abs()
        assert measured(error, "gradient against differences") < 1e-6


# --- the pieces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("friction", [0.0, 0.4])
def test_pendulum_films_against_scipy(friction, measured):
    films = pendulum_sequences(3, rng(2), steps=20, dt=0.1, friction=friction, dtype=F64)
    for z, pull in zip(films.z, (10 / films.theta[:, 0]).tolist(), strict=True):
        run = solve_ivp(
            lambda t, y, ratio=pull: [y[1], -ratio * math.sin(y[0]) - friction * y[1]],
            (0, films.t[-1].item()), z[0].numpy(), "DOP853", films.t.numpy(),
            rtol=1e-11, atol=1e-12,
        )  # fmt: skip
        error = np.abs(run.y.T - z.numpy()).max()
        assert measured(error, "generator (tolerance 1e-6) against scipy") < 1e-5
    assert torch.equal(films.x, render_rod(films.z[..., 0]))
    assert films.theta.min() >= 1 and films.theta.max() <= 2
    assert films.z[:, 0, 0].abs().max() <= math.pi / 6 and films.z[:, 0, 1].abs().max() <= 1


def test_picture_of_a_rod_pixel_by_pixel():
    picture = render_rod(torch.tensor(0.4, dtype=F64), 6, width=0.2).view(6, 6)
    tip = np.array([0.8 * math.sin(0.4), -0.8 * math.cos(0.4)])
    along = np.linspace(0, 1, 20001)[:, None] * tip
    for i, j in ((0, 0), (2, 3), (4, 4), (5, 3)):
        place = np.array([-1 + (2 * j + 1) / 6, 1 - (2 * i + 1) / 6])
        distance = np.linalg.norm(along - place, axis=1).min()
        assert abs(picture[i, j] - math.exp(-(distance**2) / 0.08)) < 1e-6
    assert picture[:3].sum() < 0.5 * picture[3:].sum()  # it hangs down


def test_semi_implicit_generator_and_clip():
    one = pendulum_sequences(4, rng(0), steps=12, solver="semi-implicit", dtype=F64)
    two = pendulum_sequences(4, rng(0), steps=12, dtype=F64)
    assert torch.equal(one.z[:, 0], two.z[:, 0])
    gap = (one.z - two.z).abs().max()
    assert 1e-4 < gap < 0.2
    z = semi_implicit_pendulum(one.z[:, 0], one.theta[:, 0], 30, 0.05, max_speed=0.5)
    assert z[:, 1:, 1].abs().max() <= 0.5


def test_first_state_is_read_backwards_and_parameters_both_ways():
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    kind = {"center": 0.5 * scale, "gain": 2 / scale}
    net = GOKUNet(pendulum, 2, 1, 4, hidden=5, generator=rng(0), **kind)
    x = torch.rand(2, 9, 4, generator=rng(1)) * scale
    mean, log_std = net.infer(x)
    assert mean.shape == log_std.shape == (1, 2, 3)
    h = torch.tanh(net.embed((2 * x / scale - 1).view(1, 18, 4))).view(1, 2, 9, 5)
    three = torch.cat([h.flip(2), h, h.flip(2)])
    first, forth, back = net.readers(three)[0].split(1)
    start = net.to_state(first[:, :, -1])[..., :2]  # the state after it has read the first frame
    assert torch.allclose(mean[..., :2], start, atol=1e-6)
    middle = torch.cat([forth, back.flip(2)], -1).mean(2)
    assert torch.allclose(mean[..., 2:], net.to_theta(middle)[..., :1], atol=1e-6)


def theirs(cell, inputs, reverse=False):
    """PyTorch's LSTM with the weights of ours, whose gates come in the order i, f, o, g."""
    order = torch.arange(4).repeat_interleave(cell.hidden).argsort(stable=True)
    blocks = order.view(4, cell.hidden)[[0, 1, 3, 2]].flatten()
    net = nn.LSTM(inputs, cell.hidden, batch_first=True, dtype=F64)
    with torch.no_grad():
        net.weight_ih_l0.copy_(cell.inputs.weights[0][0].T[blocks])
        net.weight_hh_l0.copy_(cell.state.weights[0][0].T[blocks])
        net.bias_ih_l0.copy_(cell.inputs.biases[0][0, 0][blocks])
        net.bias_hh_l0.copy_(cell.state.biases[0][0, 0][blocks])
    return net


def test_recurrent_network_is_torchs():
    cell, x = LSTM(3, 5, [rng()], dtype=F64), torch.randn(4, 6, 3, generator=rng(1), dtype=F64)
    ours, (h, c) = cell(x[None])
    expected, (h1, c1) = theirs(cell, 3)(x)
    torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(torch.stack([h[0], c[0]]), torch.cat([h1, c1]))
    again, _ = cell(x[None, :, :2], (h, c))
    torch.testing.assert_close(again[0], theirs(cell, 3)(x[:, :2], (h1, c1))[0])


@pytest.mark.parametrize("parameters", [0, 1])
def test_stacked_networks_do_not_see_each_other(parameters):
    """Losses and gradients of a stack are those of its networks alone."""
    kind = {"hidden": 6, "dtype": F64, "method": "rk4", "parameter_link": torch.exp}
    field = pendulum if parameters else lambda t, z, theta: -z
    x, t = torch.rand(3, 7, 5, generator=rng(2), dtype=F64), 0.1 * torch.arange(7, dtype=F64)
    truth, mask = torch.rand(3, 7, 2, generator=rng(3), dtype=F64), torch.ones(3, 7) > 0
    seeds, weight = (0, 1, 2), torch.tensor([0.0, 2.0, 5.0], dtype=F64)
    stack = GOKUNet(field, 2, parameters, 5, generator=[rng(s) for s in seeds], **kind)
    draws = torch.randn(3, 3, 2 + parameters, generator=rng(4), dtype=F64)
    many = stack.loss(x, t, truth=truth, mask=mask, weight=weight, generator=rng(4))
    many.loss.sum().backward()
    assert stack.predict(x, t).x.shape == (3, 3, 7, 5)
    for i in seeds:
        one = GOKUNet(field, 2, parameters, 5, generator=[rng(i)], **kind)
        mean, log_std = one.infer(x)
        path = one.decode(mean + log_std.exp() * draws[i], t)
        parts = one.loss(x, t, truth=truth, mask=mask, weight=float(weight[i]))
        again = 0.5 * ((path.x - x) / one.noise).square().sum((-2, -1)).mean(-1)
        constant = 17.5 * math.log(2 * math.pi * one.noise**2)
        ground = grounding_loss(path.z, truth, mask)
        total = again + constant + parts.divergence + weight[i] * ground
        torch.testing.assert_close(many.loss[i], total[0])
        total.backward()
        for mine, all_of in zip(one.parameters(), stack.parameters(), strict=True):
            theirs = all_of.grad.unflatten(0, (-1, 3))[:, i]  # the readers are three a network
            torch.testing.assert_close(mine.grad, theirs, rtol=1e-6, atol=1e-8)


def test_stacked_forecasts_do_not_see_each_other():
    x = torch.rand(2, 6, 3, generator=rng(1), dtype=F64)
    stack = LSTMForecast(3, 8, generator=[rng(0), rng(1)], dtype=F64)
    for i in (0, 1):
        one = LSTMForecast(3, 8, generator=rng(i), dtype=F64)
        torch.testing.assert_close(one.extend(x, 3), stack.extend(x, 3)[i])
        torch.testing.assert_close(one.loss(x), stack.loss(x)[i])


def test_prediction_goes_on_beyond_what_is_seen():
    net = GOKUNet(pendulum, 2, 1, 4, generator=rng(0), state_link=lambda u: 0.3 * u)
    x, t = torch.rand(2, 5, 4, generator=rng(1)), 0.1 * torch.arange(9)
    path = net.predict(x, t)
    assert path.x.shape == (2, 9, 4) and path.z.shape == (2, 9, 2)
    assert torch.allclose(path.x[:, :5], net.predict(x, t[:5]).x, atol=1e-3)
    late = net.predict(x, t + 3)  # the inferred state stands at the first time that is asked
    assert torch.allclose(late.z, path.z, atol=1e-3)
    mean = net.infer(x)[0].squeeze(0)
    assert torch.allclose(path.z[:, 0], 0.3 * mean[:, :2])
    assert torch.allclose(path.theta, torch.nn.functional.softplus(mean[:, 2:]))


def test_parameters_belong_to_sequences_and_not_to_the_model():
    """The same weights infer another length for another film, and no weight is a length."""
    net = GOKUNet(pendulum, 2, 1, 256, generator=rng(0))
    x = pendulum_sequences(5, rng(1), steps=8).x
    theta = net.predict(x, torch.linspace(0, 1, 4)).theta[:, 0]
    assert len(set(theta.tolist())) == 5
    alone = net.predict(x[2:3], torch.linspace(0, 1, 4)).theta[0, 0]
    assert torch.allclose(alone, theta[2], atol=1e-6)
    assert not any("theta" in name and p.dim() == 0 for name, p in net.named_parameters())
    assert {"embed", "readers", "to_theta", "emission"} <= {n for n, _ in net.named_children()}


def test_without_parameters_it_is_a_latent_ode_and_the_field_is_trained():
    field = MLP([3, 8, 3], generator=rng(0))

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = field

        def forward(self, t, z, theta):
            return self.net(z)

    net = GOKUNet(Learned(), 3, 0, 4, generator=rng(0), method="rk4")
    x, t = torch.rand(2, 5, 4, generator=rng(1)), 0.1 * torch.arange(5)
    net.loss(x, t, generator=rng(2)).loss.backward()
    assert net.predict(x, t).theta.shape == (2, 0)
    assert all(p.grad.abs().max() > 0 for p in field.parameters())


def test_same_generator_same_network_and_no_global_randomness():
    nets = [GOKUNet(pendulum, 2, 1, 4, generator=rng(7)) for _ in range(2)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x, t = torch.rand(2, 5, 4, generator=rng(1)), 0.1 * torch.arange(5)
    losses = [net.loss(x, t, generator=rng(2)).loss for net in nets]
    assert torch.equal(*losses)
    assert torch.equal(before, torch.get_rng_state())


def test_forecast_reads_its_own_output():
    net = LSTMForecast(3, 8, generator=rng(0), gain=2.0)
    x = torch.rand(2, 6, 3, generator=rng(1))
    path = net.extend(x, 3)
    assert path.shape == (2, 9, 3) and torch.equal(path[:, 0], x[:, 0])
    assert torch.allclose(path[:, 1:7], net(x), atol=1e-6)
    assert torch.allclose(path[:, 7], net(torch.cat([x, path[:, 6:7]], 1))[:, -1], atol=1e-6)
    longer = torch.cat([x, path[:, 6:8]], 1)
    assert torch.allclose(path[:, 8], net(longer)[:, -1], atol=1e-6)
    assert torch.allclose(net.loss(x), (net(x)[:, :-1] - x[:, 1:]).square().mean())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: GOKUNet(pendulum, 0, 1, 4), "state, observed and hidden"),
        (lambda: GOKUNet(pendulum, 2, -1, 4), "parameters at least 0"),
        (lambda: GOKUNet(pendulum, 2, 1, 4, noise=0.0), "noise must be positive"),
        (
            lambda: GOKUNet(pendulum, 2, 1, 4).loss(
                torch.zeros(1, 3, 4), torch.arange(3.0), weight=1.0
            ),
            "truth and mask",
        ),
        (lambda: LSTMForecast(0), "sizes must be at least 1"),
        (lambda: pendulum_sequences(0), "n must be at least 1"),
        (lambda: pendulum_sequences(2, steps=1), "steps at least 2"),
        (lambda: pendulum_sequences(2, solver="euler"), "solver must be"),
        (lambda: render_rod(torch.zeros(1), 1), "side must be"),
        (lambda: semi_implicit_pendulum(torch.zeros(1, 2), torch.ones(1), 0, 0.1), "steps must"),
        (
            lambda: identify(torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1)),
            "two or more times",
        ),
    ],
)
def test_bad_input_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_rest_identifies_nothing():
    with pytest.raises(torch.linalg.LinAlgError):
        identify(torch.zeros(5, 1, 1), torch.zeros(5, 1), torch.arange(5.0))


def test_the_posterior_is_read_off_its_two_heads():
    """Mean and log deviation of states come from one head, those of parameters from the other."""
    net = GOKUNet(pendulum, 2, 1, 5, hidden=6, generator=rng(), dtype=F64)
    x = torch.randn(3, 4, 5, generator=rng(1), dtype=F64)
    mean, log_std = (part[0] for part in net.infer(x))
    h = torch.tanh(net.embed(x.flatten(0, 1)[None])).view(1, 3, 4, 6)
    outputs, (last, _) = net.readers(torch.cat([h.flip(2), h, h.flip(2)]))
    parameters = net.to_theta(torch.cat([outputs[1:2], outputs[2:]], -1).mean(2))[0]
    states = net.to_state(last[:1])[0]
    assert mean.shape == log_std.shape == (3, 3)
    assert (mean - torch.cat([states[:, :2], parameters[:, :1]], 1)).abs().max() < 1e-12
    assert (log_std + 3 - torch.cat([states[:, 2:], parameters[:, 1:]], 1)).abs().max() < 1e-12
    assert (parameters[:, 0] - parameters[:, 1]).abs().min() > 1e-3


def test_an_emission_of_the_angle_does_not_see_the_velocity():
    emission = FromAngle([rng(0), rng(1)], pixels=5)
    z = torch.randn(2, 7, 2, generator=rng(2))
    turned = z * torch.tensor([1.0, -3.0])
    assert torch.equal(emission(z), emission(turned))
    assert (emission(z) - emission(-z)).abs().max() > 1e-2
    assert (emission(z)[0] - emission(z[[1, 0]])[1]).abs().max() > 1e-2  # two networks


def test_batches_train_networks_side_by_side_as_each_alone():
    """One and two stacked networks, the same batches: the same weights after training."""
    x, t = torch.rand(20, 5, 4, generator=rng(2), dtype=F64), 0.1 * torch.arange(5, dtype=F64)
    kind = {"hidden": 6, "dtype": F64, "method": "rk4", "parameter_link": torch.exp}

    def trained(seeds):
        net = GOKUNet(pendulum, 2, 1, 4, generator=[rng(s) for s in seeds], **kind)
        first = [p.detach().clone() for p in net.parameters()]

        def loss(rows, draws):
            mean, _ = net.infer(x[rows])
            return (net.decode(mean, t).x - x[rows]).square().mean((1, 2, 3))

        fit_batches(net, loss, 20, rng(5), steps=6, batch=3, rate=1e-2)
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(first, net.parameters(), strict=True))
        return list(net.parameters())

    both, alone = trained((0, 1)), trained((1,))
    for many, one in zip(both, alone, strict=True):
        torch.testing.assert_close(many.unflatten(0, (-1, 2))[:, 1], one, rtol=1e-6, atol=1e-9)
