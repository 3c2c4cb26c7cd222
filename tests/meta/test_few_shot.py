"""Few-shot learning with prototypes: their definition, the linear classifier, bad input."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.func import vmap
from torch.nn.functional import cross_entropy

from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.meta import (
    ProtoNet,
    class_means,
    interval,
    linear_head,
    prototype_logits,
    variance_parts,
)
from nodes_tutorial.nets import Conv4

DTYPES = [torch.float32, torch.float64]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tasks(lead=(3,), ways=4, rows=9, queries=5, features=6, dtype=torch.float64, seed=0):
    """Features and labels of supports in which every class has rows, and queries."""
    generator = rng(seed)
    z = torch.randn(*lead, rows, features, generator=generator, dtype=dtype)
    labels = torch.arange(rows).remainder(ways).expand(*lead, rows)
    order = torch.rand(*lead, rows, generator=generator).argsort(-1)
    query = torch.randn(*lead, queries, features, generator=generator, dtype=dtype)
    return z, labels.gather(-1, order), query


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_means_and_logits_against_loops(lead, dtype):
    z, labels, query = tasks(lead, dtype=dtype)
    means = class_means(z, labels, 4)
    logits = prototype_logits(query, means)
    assert means.dtype == logits.dtype == dtype
    flat = zip(*(x.reshape(-1, *x.shape[len(lead) :]) for x in (z, labels, query)), strict=True)
    flat_means, flat_logits = means.reshape(-1, 4, 6), logits.reshape(-1, 5, 4)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for task, (rows, names, asked) in enumerate(flat):
        for c in range(4):
            mean = sum(row for row, name in zip(rows, names, strict=True) if name == c)
            mean = mean / (names == c).sum()
            assert (flat_means[task, c] - mean).abs().max() < tolerance
            for q in range(5):
                far = ((asked[q] - mean) ** 2).sum()
                assert abs(flat_logits[task, q, c] + far) < 20 * tolerance


def test_order_of_the_support_does_not_matter_and_tasks_do_not_mix():
    z, labels, query = tasks()
    whole = prototype_logits(query, class_means(z, labels, 4))
    order = torch.randperm(9, generator=rng(1))
    turned = class_means(z[:, order], labels[:, order], 4)
    assert (prototype_logits(query, turned) - whole).abs().max() < 1e-12
    alone = prototype_logits(query[1], class_means(z[1], labels[1], 4))
    assert (alone - whole[1]).abs().max() < 1e-12


def test_under_vmap():
    z, labels, query = tasks()
    one = vmap(lambda x, y: class_means(x, y, 4, check=False))(z, labels)
    assert (one - class_means(z, labels, 4)).abs().max() < 1e-12
    each = vmap(prototype_logits)(query, one)
    assert (each - prototype_logits(query, one)).abs().max() < 1e-12


@pytest.mark.claim("prop-few-linear")
def test_linear_head_has_the_probabilities_of_the_prototypes(measured):
    z, labels, query = tasks(features=7)
    means = class_means(z, labels, 4)
    weight, bias = linear_head(means)
    linear = query @ weight.mT + bias.unsqueeze(-2)
    logits = -torch.cdist(query, means).square()
    assert measured((linear.softmax(-1) - logits.softmax(-1)).abs().max(), "head") < 1e-12
    for wrong in (query @ means.mT + bias.unsqueeze(-2), query @ weight.mT - bias.unsqueeze(-2)):
        assert (wrong.softmax(-1) - logits.softmax(-1)).abs().max() > 1e-2


@pytest.mark.claim("prop-few-linear")
def test_borders_bisect_at_right_angles():
    p = torch.randn(3, 5, generator=rng(0), dtype=torch.float64)
    across = p[0] - p[1]
    other = torch.randn(50, 5, generator=rng(1), dtype=torch.float64)
    along = other - (other @ across)[:, None] * across / across.square().sum()
    on = (p[0] + p[1]) / 2 + along
    weight, bias = linear_head(p)
    gap = (on @ weight.T + bias) @ torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    assert gap.abs().max() < 1e-12
    off = ((on + 0.1 * across) @ weight.T + bias) @ torch.tensor([1.0, -1.0, 0.0]).double()
    assert (off - 0.2 * across.square().sum()).abs().max() < 1e-12


@pytest.mark.claim("prop-few-linear")
@pytest.mark.parametrize("ways", [2, 4, 6])
def test_a_linear_classifier_has_prototypes(ways, measured):
    """Of affinely independent rows; of two equal rows with different biases it has none."""
    w = torch.randn(ways, 5, generator=rng(ways), dtype=torch.float64)
    b = torch.randn(ways, generator=rng(9), dtype=torch.float64)

    def solve(w, b):
        rows = torch.cat([w, torch.ones(len(w), 1, dtype=w.dtype)], 1)
        right = -2 * b - w.square().sum(1) / 2
        found = torch.linalg.pinv(rows) @ right
        return (w + found[:5]) / 2, (rows @ found - right).abs().max()

    p, rest = solve(w, b)
    assert rest < 1e-10
    z = torch.randn(30, 5, generator=rng(1), dtype=torch.float64)
    off = prototype_logits(z, p).softmax(1) - (z @ w.T + b).softmax(1)
    assert measured(off.abs().max(), "back") < 1e-10
    assert solve(torch.cat([w, w[:1]]), torch.cat([b, b[:1] + 1]))[1] > 1e-2


def bayes(z, means, scales, frequencies):
    """Bayes' rule, by the normal densities of scipy."""
    joint = [
        float(f) * multivariate_normal(m.numpy(), torch.diag(s**2).numpy()).pdf(z.numpy())
        for m, s, f in zip(means, scales, frequencies, strict=True)
    ]
    joint = torch.tensor(np.stack(joint, 1))
    return joint / joint.sum(1, keepdim=True)


@pytest.mark.claim("prop-few-bayes")
def test_nearest_mean_is_bayes_rule_under_all_hypotheses_only(measured):
    means = torch.randn(4, 3, generator=rng(0), dtype=torch.float64)
    z = 2 * torch.randn(500, 3, generator=rng(1), dtype=torch.float64)
    even, one = torch.full((4,), 0.25), torch.ones(4, 3, dtype=torch.float64)
    for sd in (0.5, 2**-0.5, 3.0):
        logits = prototype_logits(z, means) / (2 * sd**2)
        error = (logits.softmax(1) - bayes(z, means, sd * one, even)).abs().max()
        assert measured(error, "posterior") < 1e-9
        double = (2 * logits).softmax(1) - bayes(z, means, sd * one, even)
        assert double.abs().max() > 1e-2
    nearest = prototype_logits(z, means).argmax(1)
    wide = torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64)[:, None] * one
    flat = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) * one
    for scales, parts in (
        (one, torch.tensor([0.7, 0.1, 0.1, 0.1])),
        (wide, even),
        (flat, even),
    ):
        assert (bayes(z, means, scales, parts).argmax(1) != nearest).float().mean() > 0.02


@pytest.mark.claim("prop-few-bayes")
def test_error_of_two_classes_in_closed_form():
    """The nearest of two means errs with probability Phi(-distance / (2 sigma))."""
    means, sd = torch.tensor([[0.0, 0.0], [1.2, 1.6]], dtype=torch.float64), 0.8
    y = torch.randint(2, (200_000,), generator=rng(0))
    z = means[y] + sd * torch.randn(200_000, 2, generator=rng(1), dtype=torch.float64)
    wanted = float(torch.special.ndtr(torch.tensor(-2 / (2 * sd))))
    error = float((prototype_logits(z, means).argmax(1) != y).double().mean())
    assert abs(error - wanted) < 5 * (wanted * (1 - wanted) / 200_000) ** 0.5
    moved = prototype_logits(z, means + torch.tensor([0.3, 0.4])).argmax(1)
    assert (moved != y).double().mean() > error + 0.01


@pytest.mark.claim("prop-few-two-variances")
def test_variances_of_trainings_and_episodes_exactly(measured):
    """Means over all signs of the random parts are expectations, without sampling."""
    t_sd, e_sd = 0.3, 0.7
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
    tau, noise = t_sd * signs[:, :2], e_sd * signs[:, 2:].view(-1, 2, 3)
    values = 0.9 + tau[..., None] + noise
    parts = torch.tensor([variance_parts(one) for one in values], dtype=torch.float64).mean(0)
    wanted = torch.tensor([t_sd**2, e_sd**2, t_sd**2 / 2 + e_sd**2 / 6], dtype=torch.float64)
    assert measured((parts - wanted).abs().max(), "expectations") < 1e-12
    assert abs(values[:, 0].mean(1).var(correction=0) - t_sd**2 - e_sd**2 / 3) < 1e-12
    assert abs(values.mean((1, 2)).var(correction=0) - wanted[2]) < 1e-12
    usual = torch.tensor([interval(one[0]).sd ** 2 / 3 for one in values]).mean()
    assert abs(usual - e_sd**2 / 3) < 1e-6
    # without its correction the part of the trainings has that of the episodes in it
    rows = values.mean(2).var(1).mean()
    assert rows - wanted[0] > 0.1


def test_n_ways_and_k_shots():
    images, labels = torch.rand(60, 1, 4, 4), torch.arange(6).repeat(10)
    sampler = TaskSampler(images, labels, ways=4, shots=3, queries=2)
    support, names = sampler.sample(2, rng(0)).support
    assert support.shape[1] == 4 * 3
    assert (names[0].bincount() == 3).all() and len(names[0].unique()) == 4
    with pytest.raises(ValueError, match="ways"):  # the letters the other way round
        TaskSampler(images, labels, ways=7, shots=3, queries=2)


def test_unequal_shots_and_gradients():
    z = torch.randn(4, 3, generator=rng(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda x: class_means(x, labels, 2), (z,))
    query = torch.randn(2, 3, generator=rng(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: prototype_logits(query, class_means(x, labels, 2)), (z,)
    )


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    "change, error, word",
    [
        ({"features": torch.zeros(3, 2, dtype=torch.long)}, TypeError, "features"),
        ({"labels": torch.zeros(3)}, TypeError, "labels"),
        ({"labels": torch.zeros(2, dtype=torch.long)}, ValueError, "labels"),
        ({"labels": torch.tensor([0, 1, 2])}, ValueError, "labels"),
        ({"labels": torch.tensor([0, -1, 1])}, ValueError, "labels"),
        ({"labels": torch.tensor([1, 1, 1])}, ValueError, "class 0"),
        ({"ways": 0}, ValueError, "ways"),
        ({"ways": 2.0}, TypeError, "ways"),
    ],
)
def test_bad_support_is_named(change, error, word):
    good = {"features": torch.zeros(3, 2), "labels": torch.tensor([0, 1, 1]), "ways": 2}
    assert class_means(**good).shape == (2, 2)
    with pytest.raises(error, match=word):
        class_means(**good | change)


def test_a_missing_class_of_one_task_is_named():
    labels = torch.tensor([[0, 1, 2], [0, 1, 1]])
    with pytest.raises(ValueError, match=r"class 2 of task \(1,\)"):
        class_means(torch.zeros(2, 3, 1), labels, 3)
    assert class_means(torch.zeros(2, 3, 1), labels, 3, check=False)[1, 2].isnan().all()


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    "query, means, error",
    [
        (torch.zeros(5, 3), torch.zeros(2, 4), ValueError),
        (torch.zeros(2, 5, 3), torch.zeros(3, 2, 3), ValueError),
        (torch.zeros(3), torch.zeros(2, 3), ValueError),
        (torch.zeros(5, 3), torch.zeros(2, 3, dtype=torch.float64), TypeError),
    ],
)
def test_bad_queries_are_named(query, means, error):
    with pytest.raises(error, match=r"query|means"):
        prototype_logits(query, means)


def image_tasks(seed=0):
    generator = rng(seed)
    labels = torch.arange(3).repeat_interleave(2).expand(2, 6)
    query_labels = torch.arange(3).expand(2, 3)
    support = torch.rand(2, 6, 1, 28, 28, generator=generator), labels
    return support, (torch.rand(2, 3, 1, 28, 28, generator=generator), query_labels)


def test_net_is_encoder_means_and_distances():
    encoder = Conv4(width=4, norm="running", generator=rng(0)).eval()
    net = ProtoNet(encoder)
    support, query = image_tasks()
    logits = net(support, query[0])
    z = torch.stack([encoder(x) for x in support[0]])
    q = torch.stack([encoder(x) for x in query[0]])
    slow = prototype_logits(q, class_means(z, support[1], 3))
    assert (logits - slow).abs().max() < 1e-5
    loss = net.loss(support, query)
    each = torch.stack([cross_entropy(a, y) for a, y in zip(slow, query[1], strict=True)])
    assert abs(loss - each.mean()) < 1e-5
    assert (net((support[0][0], support[1][0]), query[0][0]) - logits[0]).abs().max() < 1e-5


def test_batch_statistics_let_queries_speak_to_each_other():
    """The docstring's warning, both ways."""
    support, query = image_tasks()
    other = query[0].clone()
    other[0, 0] = 1
    for norm, depends in (("running", False), ("batch", True)):
        net = ProtoNet(Conv4(width=4, norm=norm, generator=rng(0)).eval())
        change = (net(support, query[0]) - net(support, other)).abs().amax(-1)
        assert bool(change[0, 1] > 1e-4) is depends
        assert change[0, 0] > 1e-4


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_of_the_net_is_named():
    net = ProtoNet(nn.Flatten())
    support, query = image_tasks()
    with pytest.raises(TypeError, match="encoder"):
        ProtoNet(lambda x: x)
    with pytest.raises(TypeError, match="support"):
        net((support[0], support[1].double()), query[0])
    with pytest.raises(ValueError, match="support"):
        net((support[0], support[1][:, :5]), query[0])
    with pytest.raises(ValueError, match="query_x"):
        net(support, query[0][..., :27])
    with pytest.raises(ValueError, match="query_x"):
        net(support, query[0][:1])
    with pytest.raises(ValueError, match="class 3"):
        net(support, query[0], ways=4)
    with pytest.raises(ValueError, match="query"):
        net.loss(support, (query[0], query[1][:, :2]))
