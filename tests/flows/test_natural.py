"""Scores and natural gradients: against automatic differentiation and closed forms."""

import math

import pytest
import torch
from torch.func import functional_call, grad, vmap

from nodes_tutorial.data import toy2d
from nodes_tutorial.flows import MAF, Chain, Flow, RealNVP, StandardNormal, Transform
from nodes_tutorial.flows.natural import NaturalGradient, scores

F64 = {"dtype": torch.float64}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Shift(Transform):
    """x = z + b: a Gaussian whose mean is the bias of a linear layer."""

    def __init__(self, dim):
        super().__init__()
        self.shift = torch.nn.Linear(1, dim, **F64)
        torch.nn.init.zeros_(self.shift.weight)
        self.shift.weight.requires_grad_(False)
        torch.nn.init.zeros_(self.shift.bias)

    def inverse(self, x):
        return x - self.shift(torch.zeros_like(x[..., :1])), x.new_zeros(x.shape[:-1])


class Whole(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x):
        return self.flow.log_prob(x)


def slow_scores(flow, x):
    """One gradient for each point, by automatic differentiation of the whole."""
    module = Whole(flow)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    rows = vmap(grad(lambda w, x: functional_call(module, w, (x,))), (None, 0))(weights, x)
    return torch.cat([row.flatten(1) for row in rows.values()], 1)


@pytest.mark.parametrize("activation", ["tanh", "relu"])  # the second one overwrites its input
@pytest.mark.parametrize("dim", [2, 5])
def test_scores_are_the_gradients_of_single_points(activation, dim):
    flow = RealNVP(dim, 4, (6, 5), activation, rng(), **F64)
    x = torch.randn(20, dim, generator=rng(1), **F64)
    log_prob, rows = scores(flow, x)
    assert torch.equal(log_prob, flow.log_prob(x).detach())
    assert (rows - slow_scores(flow, x)).abs().max() < 1e-9 * rows.abs().max()


def test_scores_leave_no_hooks_and_no_gradients():
    flow = RealNVP(2, 2, (4,), generator=rng())
    rows = scores(flow, torch.zeros(3, 2))[1]
    assert not rows.requires_grad and all(w.grad is None for w in flow.parameters())
    assert not any(module._forward_hooks for module in flow.modules())


@pytest.mark.parametrize("flow", [MAF(2, 2, (4,)), RealNVP(2, 2, (4,), actnorm=True)])
def test_other_parameters_are_refused(flow):
    with pytest.raises(ValueError, match=r"nn\.Linear"):
        scores(flow, torch.zeros(3, 2))


def test_a_layer_that_is_called_twice_is_refused():
    flow = RealNVP(2, 2, (4,))
    flow.transforms[1].net = flow.transforms[0].net
    with pytest.raises(ValueError, match="called twice"):
        scores(flow, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"damping": 0.0}, "damping must be positive, got 0"),
        ({"memory": 1.0}, "memory must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, "momentum must be at least 0 and below 1, got -0.1"),
    ],
)
def test_wrong_keywords(keywords, message):
    with pytest.raises(ValueError, match=message):
        NaturalGradient(RealNVP(2, 2, (4,)), **keywords)


def by_quadrature(flow, reach=7, points=141):
    """Noise on a grid with its weights, and its images under the flow."""
    side = torch.linspace(-reach, reach, points, **F64)
    z = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).view(-1, 2)
    with torch.no_grad():
        mass = StandardNormal(2, **F64).log_prob(z).exp() * (side[1] - side[0]) ** 2
        return mass, Chain(flow.transforms).push(z)


@pytest.mark.claim("prop-normalizing-natural")
def test_divergence_of_a_small_step_is_half_the_fisher_form(measured):
    """The second difference of KL along a direction, which cancels the cubic term."""
    flow = RealNVP(2, 2, (4,), "tanh", rng(3), **F64)
    mass, x = by_quadrature(flow)
    log_q, rows = scores(flow, x)
    assert measured((mass @ rows).abs().max(), "mean score") < 1e-8
    fisher = rows.T @ (mass[:, None] * rows)
    start = torch.nn.utils.parameters_to_vector(flow.parameters()).detach()
    delta = torch.randn(len(start), generator=rng(4), **F64)
    delta *= 1e-3 / delta.norm()

    def kl(move):
        torch.nn.utils.vector_to_parameters(start + move, flow.parameters())
        with torch.no_grad():
            return mass @ (log_q - flow.log_prob(x))

    form = delta @ fisher @ delta / 2
    # what is left is of the fourth order: a millionth of the form
    error = ((kl(delta) + kl(-delta)) / 2 - form).abs() / form
    assert measured(error, "divergence over quadratic form") < 1e-5
    whole = delta @ delta / 2
    assert ((kl(delta) - whole) / whole).abs() > 0.1  # the plain length is no substitute


@pytest.mark.claim("prop-normalizing-natural")
def test_natural_gradient_is_the_best_direction_and_the_same_in_other_coordinates(measured):
    root, g = torch.randn(6, 6, generator=rng(1), **F64), torch.randn(6, generator=rng(2), **F64)
    fisher = root @ root.T + torch.eye(6)
    natural = torch.linalg.solve(fisher, g)
    best = g @ natural / (natural @ fisher @ natural).sqrt()
    others = torch.randn(10_000, 6, generator=rng(3), **F64)
    gain = others @ g / torch.einsum("ni,ij,nj->n", others, fisher, others).sqrt()
    assert gain.max() < best and (g @ g) / (g @ fisher @ g).sqrt() < best
    J = torch.randn(6, 6, generator=rng(4), **F64)
    mapped = J @ torch.linalg.solve(J.T @ fisher @ J, J.T @ g)
    assert measured((mapped - natural).abs().max(), "other coordinates") < 1e-9
    assert (J @ (J.T @ g) - g).abs().max() > 1  # plain gradients do change


@pytest.mark.claim("prop-normalizing-natural")
def test_a_step_of_the_optimizer_is_the_natural_gradient(measured):
    """Against a dense solve; with little damping, and no clipping for these points."""
    flow = RealNVP(2, 2, (3,), "tanh", rng(6), **F64)
    x = torch.randn(400, 2, generator=rng(7), **F64)
    rows = slow_scores(flow, x)
    assert (rows.norm(dim=1) < 10 * rows.norm(dim=1).median()).all()
    before = torch.nn.utils.parameters_to_vector(flow.parameters()).detach()
    damping = 1e-4
    fisher = rows.T @ rows / len(x) + damping * torch.eye(rows.shape[1], **F64)
    exact = torch.linalg.solve(fisher, rows.mean(0))
    NaturalGradient(flow, damping=damping, memory=0.0, momentum=0.0).step(x, rate=1.0)
    move = torch.nn.utils.parameters_to_vector(flow.parameters()).detach() - before
    assert measured((move - exact).norm() / exact.norm(), "step") < 1e-6
    plain = rows.mean(0)
    cosine = plain @ move / (plain.norm() * move.norm())
    assert 0 < cosine < 0.9  # it goes uphill, and is not the plain gradient


def test_the_mean_of_a_gaussian_is_reached_in_one_step():
    """There F = I is known; we give the optimizer the truth to see the rest of its step."""
    layer = Shift(2)
    flow = Flow(StandardNormal(2, **F64), [layer])
    x = torch.randn(200, 2, generator=rng(5), **F64) + torch.tensor([0.3, -0.2], **F64)
    fisher = (x.T @ x) / len(x)
    layer.shift.weight.requires_grad_(True)
    optimizer = NaturalGradient(flow, damping=1e-9, memory=0.0, momentum=0.0)
    loss = optimizer.step(x, rate=1.0)
    assert abs(loss + flow.base.log_prob(x).mean()) < 1e-12
    step = torch.linalg.solve(fisher, x.mean(0))
    assert (layer.shift.bias - step).abs().max() < 1e-6


def test_a_single_far_point_cannot_carry_the_step_away():
    flow, x = RealNVP(2, 2, (4,), "tanh", rng(), **F64), torch.randn(50, 2, generator=rng(1), **F64)
    x[0] = 1e4
    before = [weight.clone() for weight in flow.parameters()]
    NaturalGradient(flow).step(x, rate=0.1)
    moved = [(a - b).norm() for a, b in zip(flow.parameters(), before, strict=True)]
    assert all(length.isfinite() for length in moved) and max(moved) > 0


def test_beats_adam_at_equal_steps():
    def learn(natural):
        flow, generator = RealNVP(2, 6, (8,), "tanh", rng()), rng(1)
        with torch.no_grad():
            for layer in flow.transforms:
                for parameter in layer.net.layers[-1].parameters():
                    parameter.zero_()
        adam = torch.optim.Adam(flow.parameters(), lr=1e-2)
        optimizer = NaturalGradient(flow, damping=1e-2)
        for i in range(60):
            x = toy2d.sample("moons", 256, generator)
            rate = (1 + math.cos(math.pi * i / 60)) / 2
            if natural:
                optimizer.step(x, 0.1 * rate)
            else:
                adam.zero_grad()
                (-flow.log_prob(x).mean()).backward()
                adam.param_groups[0]["lr"] = 1e-2 * rate
                adam.step()
        with torch.no_grad():
            return float(-flow.log_prob(toy2d.sample("moons", 4000, rng(2))).mean())

    assert learn(True) < learn(False) - 0.1
