"""Claims of the chapter on HyperMAML, and the package against obvious oracles."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.invariance import DeepSets
from nodes_tutorial.meta import (
    GradientHead,
    HyperMAML,
    SupportRows,
    WarmUp,
    head_gradient,
    head_logits,
    released_hypermaml,
    support_rows,
)
from nodes_tutorial.meta import hypernetworks as hypernetworks_module
from nodes_tutorial.nets import MLP, Conv4, count_parameters

F64 = torch.float64
DIM, WAYS = 6, 5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=dtype)


def episode(tasks=3, shots=2, queries=4, *, seed=0, dtype=F64, ways=WAYS):
    """Support, its labels in no order, and queries: embeddings around class means."""
    means = 2 * randn(tasks, ways, DIM, seed=seed, dtype=dtype)
    order = torch.stack(
        [torch.randperm(ways * shots, generator=rng(seed + t)) for t in range(tasks)]
    )
    labels = torch.arange(ways).repeat(shots)[order]
    rows = torch.arange(tasks)[:, None]
    support = means[rows, labels] + randn(tasks, ways * shots, DIM, seed=seed + 50, dtype=dtype)
    query = means.repeat(1, queries, 1)
    return support, labels, query + randn(*query.shape, seed=seed + 60, dtype=dtype)


def network(reads="class", start="shared", *, dtype=F64, **kind):
    ways = WAYS if reads == "released" else None
    rows = support_rows(
        DIM, DIM + 1, hidden=(16,), latent=12, reads=reads, ways=ways, activation="silu",
        generator=rng(1), dtype=dtype,
    )  # fmt: skip
    return HyperMAML(rows, DIM, WAYS, start=start, generator=rng(2), dtype=dtype, **kind)


SETTINGS = [(r, s) for r in hypernetworks_module.READS for s in ("shared", "per_class")]


# --- the gradient of a linear head ---------------------------------------------------------------


@pytest.mark.claim("prop-hypermaml-step")
@pytest.mark.parametrize("shared", [True, False])
def test_gradient_of_a_head_is_autograd_s(measured, shared):
    support, labels, _ = episode()
    head = randn(3, 1 if shared else WAYS, DIM + 1, seed=3).expand(3, WAYS, -1).clone()
    head.requires_grad_()
    total = sum(
        cross_entropy(x @ h[:, :-1].T + h[:, -1], y)
        for h, x, y in zip(head, support, labels, strict=True)
    )
    (wanted,) = torch.autograd.grad(total, head)
    found = head_gradient(head.detach(), support, labels)
    assert measured((found - wanted).abs().max(), "gradient") < 1e-12
    turned = head_gradient(head.detach(), support, (labels + 1) % WAYS)  # other labels
    assert (turned - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_gradient_head_takes_steps_of_its_own_sizes(dtype):
    support, labels, query = episode(dtype=dtype)
    net = GradientHead(DIM, WAYS, steps=3, dtype=dtype)
    with torch.no_grad():
        net.log_size.add_(randn(DIM + 1, seed=8, dtype=dtype))
    found = net((support, labels), query)
    for x, y, q, logits in zip(support, labels, query, found, strict=True):
        head = torch.zeros(WAYS, DIM + 1, dtype=dtype, requires_grad=True)
        for _ in range(3):
            loss = cross_entropy(x @ head[:, :-1].T + head[:, -1], y)
            (slope,) = torch.autograd.grad(loss, head)
            head = (head - net.log_size.exp() * slope).detach().requires_grad_()
        off = (logits - (q @ head[:, :-1].T + head[:, -1])).abs().max()
        assert off < (1e-12 if dtype == F64 else 1e-4)
    assert label_violation(net) < 1e-12 if dtype == F64 else True
    one = GradientHead(DIM, WAYS, steps=1, size=0.7, dtype=dtype)((support, labels), query)
    step = network(step_size=0.7, dtype=dtype)((support, labels), query, 1.0).softmax(-1)
    assert (one.softmax(-1) - step).abs().max() < (1e-12 if dtype == F64 else 1e-4)


def exact_set(step_size, read_probability=True):
    """The Deep Set of the proposition: rows are step_size times the gradient of the head."""

    class Element(nn.Module):
        def forward(self, x):
            z, own, p = x[..., :-2], x[..., -2:-1], x[..., -1:]
            if not read_probability:
                p = torch.full_like(p, 1 / WAYS)
            return (p - own) * torch.cat([z, torch.ones_like(own)], -1)

    class Scaled(nn.Module):
        def forward(self, x):
            return step_size * x

    return SupportRows(DeepSets(Element(), Scaled(), "mean"), "support")


@pytest.mark.claim("prop-hypermaml-step")
@pytest.mark.parametrize("start", ["shared", "per_class"])
def test_a_set_of_triples_makes_the_step_exactly(measured, start):
    support, labels, query = episode()
    net = HyperMAML(
        exact_set(0.7), DIM, WAYS, start=start, step_size=0.7, generator=rng(2), dtype=F64
    )
    by_set, by_step = (net((support, labels), query, share) for share in (0.0, 1.0))
    assert measured((by_set - by_step).abs().max(), "logits of the step") < 1e-12
    # without the probabilities it is right for a shared start alone
    net.rows = exact_set(0.7, read_probability=False)
    off = (net((support, labels), query) - by_step).abs().max()
    assert off < 1e-12 if start == "shared" else off > 1e-2


def own_sums(step_size):
    """Part 2: rows from the points of the own class alone, minus their sum."""

    class Element(nn.Module):
        def forward(self, z):
            return torch.cat([z, torch.ones_like(z[..., :1])], -1)

    class Scaled(nn.Module):
        def forward(self, x):
            return -step_size * x

    return SupportRows(DeepSets(Element(), Scaled(), "sum"), "class")


@pytest.mark.claim("prop-hypermaml-own")
@pytest.mark.parametrize("start", ["shared", "per_class"])
def test_own_points_suffice_for_a_shared_start(measured, start):
    support, labels, query = episode()
    net = HyperMAML(
        own_sums(0.7 / 10), DIM, WAYS, start=start, step_size=0.7, generator=rng(2), dtype=F64
    )
    by_set, by_step = (net((support, labels), query, share) for share in (0.0, 1.0))
    off = (by_set.softmax(-1) - by_step.softmax(-1)).abs().max()
    if start == "shared":
        assert measured(off, "probabilities") < 1e-12
        assert (by_set - by_step).abs().max() > 1e-2  # the logits differ, by the same in each class
    else:
        assert off > 1e-3


@pytest.mark.claim("prop-hypermaml-own")
@pytest.mark.parametrize("start", ["shared", "per_class"])
def test_the_step_of_two_classes_sees_a_third(start):
    """Where it does, no rows made from the own class alone can follow it."""
    support, labels, _ = episode(tasks=1)
    other = torch.where((labels == 2)[..., None], support + 1, support)
    for reads in ("class", "released"):
        net = network(reads, start)
        rows = [net.rows(x, labels, WAYS) for x in (support, other)]
        assert torch.equal(rows[0][:, :2], rows[1][:, :2])
    steps = [head_gradient(net.head.expand(1, WAYS, -1), x, labels) for x in (support, other)]
    change = (steps[1] - steps[0])[0]
    apart = (change[0] - change[1]).abs().max()
    assert apart < 1e-12 if start == "shared" else apart > 1e-3


@pytest.mark.claim("prop-hypermaml-own")
@pytest.mark.parametrize("ways", [2, 3])
def test_two_classes_share_the_step(measured, ways):
    """Part 3, with the elements of the released program; three classes are the case without it."""
    support, labels, query = episode(ways=ways, shots=3)

    class Element(nn.Module):
        def forward(self, x):
            z, p, number = x[..., :DIM], x[..., DIM:-1], x[..., -1:]
            own = p.gather(-1, number.long())
            return (own - 1) * torch.cat([z, torch.ones_like(own)], -1)

    class Scaled(nn.Module):
        def forward(self, x):
            return 2 * 0.7 / (3 * ways) * x

    rows = SupportRows(DeepSets(Element(), Scaled(), "sum"), "released")
    net = HyperMAML(rows, DIM, ways, start="per_class", step_size=0.7, generator=rng(2), dtype=F64)
    by_rows, by_step = (net((support, labels), query, s).softmax(-1) for s in (0.0, 1.0))
    off = (by_rows - by_step).abs().max()
    if ways == 2:
        assert measured(off, "two classes") < 1e-12
    else:
        assert off > 1e-3


@pytest.mark.claim("prop-hypermaml-own")
@pytest.mark.parametrize("reads", ["class", "support"])
def test_a_shared_start_has_no_effect(measured, reads):
    support, labels, query = episode()
    net = network(reads)
    for share in (0.0, 0.5, 1.0):
        before = net((support, labels), query, share).softmax(-1)
        with torch.no_grad():
            net.head.add_(randn(1, DIM + 1, seed=9))
        after = net((support, labels), query, share).softmax(-1)
        assert measured((after - before).abs().max(), "another start") < 1e-12
    net = network(reads, "per_class")
    before = net((support, labels), query).softmax(-1)
    with torch.no_grad():
        net.head.add_(randn(WAYS, DIM + 1, seed=9))
    assert (net((support, labels), query).softmax(-1) - before).abs().max() > 1e-2


# --- symmetry ------------------------------------------------------------------------------------


def label_violation(net, *share):
    """How far the predictions are from permuting with the labels; the largest of five orders."""
    support, labels, query = episode()
    before = net((support, labels), query, *share)
    worst = 0.0
    for seed in range(5):
        order = torch.randperm(WAYS, generator=rng(seed))  # class c is now called order[c]
        after = net((support, order[labels]), query, *share)
        worst = max(worst, float((after[..., order] - before).detach().abs().max()))
    return worst


@pytest.mark.claim("prop-hypermaml-symmetry")
@pytest.mark.parametrize("reads", ["class", "support"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_predictions_permute_with_the_labels(measured, reads, share):
    assert measured(label_violation(network(reads), share), "permuted labels") < 1e-12
    # a row for each class breaks it, with the gradient step too
    assert label_violation(network(reads, "per_class"), share) > 1e-2


@pytest.mark.claim("prop-hypermaml-symmetry")
def test_the_violation_is_the_difference_of_the_start_rows(measured):
    support, labels, query = episode()
    net = network("class", "per_class")
    order = torch.randperm(WAYS, generator=rng(2))
    violation = net((support, order[labels]), query)[..., order] - net((support, labels), query)
    start = head_logits(net.head, query)
    error = (violation - (start[..., order] - start)).abs().max()
    assert measured(error, "part 3") < 1e-12
    # with the probabilities among the inputs the rows change too
    net = network("support", "per_class")
    violation = net((support, order[labels]), query)[..., order] - net((support, labels), query)
    assert (violation - (start[..., order] - start)).abs().max() > 1e-3


@pytest.mark.claim("prop-hypermaml-symmetry")
def test_the_released_inputs_break_the_symmetry():
    assert label_violation(released_hypermaml(DIM, WAYS, 16, generator=rng(1), dtype=F64)) > 1e-2
    # even with a shared start: the number of the class is an input
    assert label_violation(network("released")) > 1e-2


@pytest.mark.claim("prop-hypermaml-symmetry")
@pytest.mark.parametrize(("reads", "start"), SETTINGS)
def test_the_order_of_the_support_does_not_count(measured, reads, start):
    support, labels, query = episode()
    net = network(reads, start)
    before = net((support, labels), query, 0.3)
    order = torch.randperm(labels.shape[1], generator=rng(4))
    after = net((support[:, order], labels[:, order]), query, 0.3)
    assert measured((after - before).abs().max(), "permuted support") < 1e-12
    after = net((support[:, order], labels), query, 0.3)  # images without their labels
    assert (after - before).abs().max() > 1e-2


@pytest.mark.parametrize("reads", ["class", "support"])
def test_predictions_hang_on_the_support(reads):
    """A hypernetwork that ignores what it is given is refused by these three."""
    support, labels, query = episode()
    net = network(reads)
    before = net((support, labels), query)
    for other in (torch.zeros_like(support), support.flip(0)):
        assert (net((other, labels), query) - before).abs().max() > 1e-2
    assert (net((support, (labels + 1) % WAYS), query) - before).abs().max() > 1e-2


def test_a_hypernetwork_that_ignores_its_support_is_found():
    """The wrong variant: the sums are multiplied by 0, so that biases alone make the rows."""
    support, labels, query = episode()
    net = network()
    with torch.no_grad():
        net.rows.deep_set.rho.layers[0].weight.zero_()
    found = net((support, labels), query)
    assert torch.equal(net((support.flip(0), labels), query), found)
    assert (found.softmax(-1) - 1 / WAYS).abs().max() < 1e-12  # chance: all rows are equal


# --- the network against a loop ------------------------------------------------------------------


def slow_rows(rows, support, labels, ways, probabilities):
    """Rows of one task: a list of elements for each class, and the two parts of the Deep Set."""
    found = []
    for c in range(ways):
        elements = []
        for z, y, p in zip(support, labels.tolist(), probabilities, strict=True):
            if rows.reads == "support":
                own = float(y == c)
                elements.append(torch.cat([z, z.new_tensor([own]), p[c : c + 1]]))
            elif y == c:
                told = [z] if rows.reads == "class" else [z, p, z.new_tensor([float(c)])]
                elements.append(torch.cat(told))
        found.append(rows.deep_set(torch.stack(elements)))
    return torch.stack(found)


@pytest.mark.parametrize(("reads", "start"), SETTINGS)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tasks_at_once_are_a_loop_over_tasks(reads, start, share, dtype):
    support, labels, query = episode(dtype=dtype)
    net = network(reads, start, dtype=dtype)
    found = net((support, labels), query, share)
    assert found.dtype == dtype and found.shape == (3, 20, WAYS)
    close = 1e-12 if dtype == F64 else 1e-4
    start_head = net.head.expand(WAYS, -1)
    for x, y, q, logits in zip(support, labels, query, found, strict=True):
        p = (x @ start_head[:, :-1].T + start_head[:, -1]).softmax(-1)
        onehot = nn.functional.one_hot(y, WAYS).to(dtype)
        padded = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        step = 0.1 * (p - onehot).T @ padded / len(y)
        head = start_head - share * step - (1 - share) * slow_rows(net.rows, x, y, WAYS, p)
        assert (logits - (q @ head[:, :-1].T + head[:, -1])).abs().max() < close
        assert (logits - net((x, y), q, share)).abs().max() < close
    mapped = vmap(lambda x, y, q: net((x, y), q, share))(support, labels, query)
    assert (mapped - found).abs().max() < close


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_rows_of_a_class_are_masked_deep_sets(pool):
    support, labels, _ = episode(shots=3)
    labels[:, 0] = labels[:, 1]  # classes need not have equally many points
    labels[:, -5:] = torch.arange(5)
    deep_set = DeepSets(
        MLP([DIM, 8, 8], generator=rng(1), dtype=F64),
        MLP([8, 8, 3], generator=rng(2), dtype=F64),
        pool,
    )
    found = SupportRows(deep_set)(support, labels, WAYS)
    mask = labels[:, None] == torch.arange(WAYS)[:, None]
    wanted = deep_set(support[:, None].expand(-1, WAYS, -1, -1), mask)
    assert (found - wanted).abs().max() < 1e-12
    everything = deep_set(support[:, None].expand(-1, WAYS, -1, -1))
    assert (found - everything).abs().max() > 1e-2


@pytest.mark.parametrize(("reads", "start"), SETTINGS)
def test_gradients(reads, start):
    support, labels, query = episode(tasks=2, shots=1, queries=1)
    net = network(reads, start)
    named = dict(net.named_parameters())
    constant = reads != "class" and start == "per_class"  # no gradient through probabilities
    names = [name for name in named if name != "head"] if constant else list(named)
    support.requires_grad_(not constant)
    inputs = [named[name].detach().requires_grad_() for name in names]

    def loss(support, *parameters):
        own = dict(zip(names, parameters, strict=True))
        found = functional_call(net, own, ((support, labels), query))
        return found.logsumexp(-1).sum() - found[..., 0].sum()

    assert torch.autograd.gradcheck(loss, [support, *inputs], fast_mode=True)


def test_the_outer_gradient_is_that_of_the_adapted_head(measured):
    """Through start and hypernetwork; the loss of the start alone has another gradient."""
    support, labels, query = episode()
    targets = torch.arange(WAYS).repeat(4).expand(3, -1)
    net = network("class", "per_class")
    loss = cross_entropy(net((support, labels), query).flatten(0, 1), targets.flatten())
    loss.backward()
    at_adapted = head_gradient(net.adapt((support, labels)).detach(), query, targets).mean(0)
    assert measured((net.head.grad - at_adapted).abs().max(), "outer gradient") < 1e-12
    at_start = head_gradient(net.head.detach().expand(3, -1, -1), query, targets).mean(0)
    assert (net.head.grad - at_start).abs().max() > 1e-2
    assert all(p.grad.abs().max() > 0 for p in net.rows.parameters())


def test_no_gradient_goes_through_the_probabilities():
    support, labels, query = episode()
    net = network("support", "per_class")
    net((support, labels), query).sum().backward()
    padded = torch.cat([query, torch.ones_like(query[..., :1])], -1).sum((0, 1))
    assert (net.head.grad - padded).abs().max() < 1e-10  # of the start alone


def test_seeds_side_by_side():
    nets = [
        support_rows(DIM, DIM + 1, latent=8, hidden=(8,), generator=rng(s), dtype=F64)
        for s in range(3)
    ]
    support, labels, _ = episode()
    parameters, buffers = stack_module_state(nets)
    found = vmap(lambda p, b: functional_call(nets[0], (p, b), (support, labels, WAYS)))(
        parameters, buffers
    )
    wanted = torch.stack([net(support, labels, WAYS) for net in nets])
    assert (found - wanted).abs().max() < 1e-12


def test_other_numbers_of_classes():
    support, labels, query = episode(ways=8)
    net = network("support")
    assert net((support, labels), query, ways=8).shape == (3, 32, 8)
    assert net.adapt((support, labels), ways=8).shape == (3, 8, DIM + 1)


def test_with_an_encoder():
    images = torch.rand(60, 1, 16, 16, generator=rng(), dtype=F64)
    sampler = TaskSampler(images, torch.arange(6).repeat(10), ways=5, shots=2, queries=3)
    tasks = sampler.sample(4, rng(1))
    encoder = Conv4(width=4, side=16, norm="running", generator=rng(2), dtype=F64).eval()
    rows = support_rows(encoder.features, encoder.features + 1, generator=rng(3), dtype=F64)
    net = HyperMAML(rows, encoder.features, 5, encoder=encoder, generator=rng(4), dtype=F64)
    found = net(tasks.support, tasks.query_x)
    bare = HyperMAML(rows, encoder.features, 5, generator=rng(4), dtype=F64)
    z, q = (
        encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (tasks.support_x, tasks.query_x)
    )
    assert (found - bare((z, tasks.support_y), q)).abs().max() < 1e-12
    assert (
        net((tasks.support_x[1], tasks.support_y[1]), tasks.query_x[1]) - found[1]
    ).abs().max() < 1e-12
    loss = cross_entropy(found.flatten(0, 1), tasks.query_y.flatten())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_the_released_sizes():
    net = released_hypermaml()
    assert net.head.shape == (5, 65) and net.head.numel() == 325
    layers = [
        (m.in_features, m.out_features) for m in net.rows.modules() if isinstance(m, nn.Linear)
    ]
    assert layers == [(70, 512), (512, 512), (512, 65)]
    assert count_parameters(net) == 325 + 71 * 512 + 513 * 512 + 513 * 65
    # five shots are averaged before the perceptron
    z, p = randn(1, 25, 64, seed=1, dtype=torch.float32), torch.full((1, 25, 5), 0.2)
    labels = torch.arange(5).repeat_interleave(5)[None]
    mean = z.unflatten(1, (5, 5)).mean(2)
    number = torch.arange(5.0)[None, :, None]
    wanted = net.rows.deep_set.rho(torch.cat([mean, torch.full((1, 5, 5), 0.2), number], -1))
    assert (net.rows(z, labels, 5, p) - wanted).abs().max() < 1e-5


# --- the schedule --------------------------------------------------------------------------------


def test_the_switch():
    share = WarmUp(50, 500)
    assert [share(e) for e in (0, 49, 50, 549, 550, 2047)] == [1, 1, 500 / 501, 1 / 501, 0, 0]
    falls = [share(e) - share(e + 1) for e in range(49, 550)]
    assert max(abs(fall - 1 / 501) for fall in falls) < 1e-12  # no jump anywhere
    assert [WarmUp(0, 0)(e) for e in range(2)] == [0, 0]
    assert [WarmUp(1, 0)(e) for e in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_share_mixes_the_two(share):
    support, labels, _ = episode()
    net = network()
    mixed, by_rows, by_step = (net.adapt((support, labels), s) for s in (share, 0.0, 1.0))
    assert (mixed - share * by_step - (1 - share) * by_rows).abs().max() < 1e-12


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_is_named():
    support, labels, query = episode()
    net = network()
    with pytest.raises(
        ValueError, match="labels of support must have each class in each task; one lacks class 4"
    ):
        net((support, labels.clamp_max(3)), query)
    with pytest.raises(ValueError, match="labels of support must be between 0 and 4, got 0 to 5"):
        net((support, torch.where(labels == 4, 5, labels)), query)
    with pytest.raises(ValueError, match="labels of support must have one label for each"):
        net((support, labels[:, 1:]), query)
    with pytest.raises(
        TypeError, match=r"labels of support must hold integers, got torch\.float64"
    ):
        net((support, labels.double()), query)
    with pytest.raises(TypeError, match="labels of support must hold integers, got list"):
        net((support, labels.tolist()), query)
    with pytest.raises(ValueError, match=r"embeddings must end in the axes \(6,\)"):
        net((support[..., 1:], labels), query)
    with pytest.raises(TypeError, match=r"embeddings must be torch\.float64"):
        net((support.float(), labels), query)
    with pytest.raises(ValueError, match="x must have axes behind"):
        net((support[..., 0], labels), query)
    with pytest.raises(ValueError, match=r"query_x must have the tasks \(3,\) of the support"):
        net((support, labels), query[:2])
    with pytest.raises(ValueError, match="gradient_share must be a number from 0 to 1"):
        net((support, labels), query, 1.5)
    with pytest.raises(ValueError, match="ways must be 5, with one start row for each; got 4"):
        network(start="per_class")((support, labels), query, ways=4)
    with pytest.raises(ValueError, match="rows must have 7 numbers for each class, got 8"):
        HyperMAML(support_rows(DIM, 8, dtype=F64), DIM, WAYS, dtype=F64)((support, labels), query)
    with pytest.raises(ValueError, match="start must be one of"):
        network(start="own")
    with pytest.raises(ValueError, match="step_size must be a number of at least 0"):
        network(step_size=-0.1)
    with pytest.raises(
        ValueError, match="reads must be one of class, support, released; got 'all'"
    ):
        support_rows(DIM, 3, reads="all")
    with pytest.raises(ValueError, match="reads must be one of"):
        SupportRows(DeepSets(nn.Identity(), nn.Identity()), "all")
    with pytest.raises(ValueError, match="deep_set must pool by sum or mean, got 'max'"):
        SupportRows(DeepSets(nn.Identity(), nn.Identity(), "max"))
    with pytest.raises(ValueError, match="ways must be given for reads='released'"):
        support_rows(DIM, 3, reads="released")
    with pytest.raises(ValueError, match="ways must be None for reads='class'"):
        support_rows(DIM, 3, ways=5)
    with pytest.raises(ValueError, match=r"probabilities must end in the axes \(3, 10, 5\)"):
        net.rows(support, labels, WAYS, torch.ones(3, 10, 4, dtype=F64))
    with pytest.raises(ValueError, match="labels must be between 0 and 4"):
        head_gradient(torch.zeros(3, 5, 7, dtype=F64), support, labels + 1)
    with pytest.raises(ValueError, match=r"head must end in the axes \(7,\)"):
        head_logits(torch.zeros(5, 6, dtype=F64), support)
    with pytest.raises(ValueError, match="size must be a positive number"):
        GradientHead(DIM, WAYS, size=0.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        GradientHead(DIM, WAYS, 0)
    with pytest.raises(ValueError, match="warmup must be at least 0, got -1"):
        WarmUp(-1, 3)
    with pytest.raises(TypeError, match=r"switch must be an integer, got 2\.5"):
        WarmUp(1, 2.5)
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        WarmUp(1, 2)(-1)


# --- the recorded runs ---------------------------------------------------------------------------


def test_the_record_agrees_with_the_findings():
    """Where the drawings are not at hand the page asserts its bounds on these rows."""
    path = Path(__file__).parents[2] / "results" / "hypermaml.json"
    rows = [row for row in json.loads(path.read_text())["rows"] if row["part"] == "small"]
    mean, nats = {}, {}
    for head in ("prototypes", "gradient head", "HyperMAML"):
        own = [row for row in rows if row["head"] == head]
        assert [row["seed"] for row in own] == [0, 1, 2]
        mean[head] = torch.tensor([row["accuracy"] for row in own], dtype=F64).mean(0)
        nats[head] = torch.tensor([row["nll"] for row in own], dtype=F64).mean(0)
    assert all(
        row["tests"] == [["Latin", 1], ["en62", 1], ["Latin", 5], ["en62", 5]] for row in rows
    )
    assert (nats["HyperMAML"] < 0.75 * nats["gradient head"])[[0, 2]].all()
    for rival in ("gradient head", "prototypes"):
        assert mean[rival][1] - mean["HyperMAML"][1] > 0.008
        assert mean[rival][3] - mean["HyperMAML"][3] > 0.015
    rates = {row["head"]: row["rate"] for row in rows}
    assert rates["gradient head"] == 1e-3 and rates["HyperMAML"] == 3e-3  # those of the page
