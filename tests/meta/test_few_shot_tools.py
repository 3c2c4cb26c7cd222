"""Episodes and intervals, point sets, feature transfer, kept encoders."""

import zipfile

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from nodes_tutorial.data import DataError, registry
from nodes_tutorial.data.runs import ARCHIVE, have_one_shot_runs, one_shot_runs
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.meta import (
    Baseline,
    ProtoNet,
    check_apart,
    embed,
    encoders,
    episode_accuracies,
    fit_head,
    hausdorff_table,
    have_encoder,
    ink_points,
    interval,
    load_encoder,
    modified_hausdorff,
    transfer_logits,
    variance_parts,
)
from nodes_tutorial.nets import Conv4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count=12, seed=0):
    images = torch.rand(60, 1, 4, 4, generator=rng(seed))
    sampler = TaskSampler(images, torch.arange(6).repeat(10), ways=5, shots=1, queries=3)
    return sampler.sample(count, rng(seed))


def test_features_are_those_of_each_image_alone():
    net = Conv4(width=4, norm="running", generator=rng(0))
    net(torch.rand(9, 1, 28, 28, generator=rng(1)))
    images = torch.rand(7, 1, 28, 28, generator=rng(2))
    net.blocks[1].eval()
    rows = embed(net, images, chunk=3)
    assert net.training and not net.blocks[1].training and not rows.requires_grad
    net.eval()
    one = torch.cat([net(image[None]) for image in images])
    assert rows.shape == (7, 16, 1, 1) and (rows[..., 0, 0] - one).abs().max() < 1e-5


def test_accuracies_against_a_loop():
    tasks, net = drawn(), ProtoNet(nn.Flatten())
    shares = episode_accuracies(net, tasks, chunk=5)
    for k, (sx, sy, qx, qy) in enumerate(zip(*tasks, strict=True)):
        right = sum(
            int(net((sx, sy), q[None]).argmax()) == int(y) for q, y in zip(qx, qy, strict=True)
        )
        assert shares[k] == right / 15
    constant = episode_accuracies(lambda s, q: torch.eye(5)[0].expand(*q.shape[:2], 5), tasks)
    assert (constant == 0.2).all()


def test_a_query_in_the_support_is_found():
    tasks = drawn()
    check_apart(tasks)
    tasks.query_x[7, 4] = tasks.support_x[7, 2]
    for call in (
        lambda: check_apart(tasks),
        lambda: episode_accuracies(ProtoNet(nn.Flatten()), tasks),
    ):
        with pytest.raises(ValueError, match="query 4 of episode 7"):
            call()
    episode_accuracies(ProtoNet(nn.Flatten()), tasks, apart=False)
    other = drawn()
    other.query_x[7, 4] = other.support_x[6, 2]  # in the support of another episode
    check_apart(other)


def test_interval_is_students():
    values = torch.rand(9, generator=rng(0), dtype=torch.float64)
    found = interval(values, 0.9)
    wanted = student.interval(0.9, 8, values.mean(), values.std() / 3)
    assert abs(found.mean - found.half - wanted[0]) < 1e-12
    assert abs(found.mean + found.half - wanted[1]) < 1e-12
    assert found.n == 9


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    "call, error, word",
    [
        (lambda: embed(lambda x: x, torch.zeros(2, 1)), TypeError, "encoder"),
        (lambda: embed(nn.Flatten(), torch.zeros(0, 1)), ValueError, "images"),
        (lambda: embed(nn.Flatten(), torch.zeros(2, 1), chunk=0), ValueError, "chunk"),
        (lambda: interval(torch.zeros(1)), ValueError, "values"),
        (lambda: interval(torch.zeros(3), 1.0), ValueError, "level"),
        (lambda: interval(torch.zeros(3, dtype=torch.long)), TypeError, "values"),
        (lambda: variance_parts(torch.zeros(3, 1)), ValueError, "values"),
        (lambda: episode_accuracies(lambda s, q: q, drawn()), ValueError, "predict"),
        (lambda: episode_accuracies(ProtoNet(nn.Flatten()), drawn(), chunk=0), ValueError, "chunk"),
        (lambda: ink_points(torch.zeros(1, 2, 2)), TypeError, "ink"),
        (lambda: ink_points(torch.zeros(1, 2, 2, dtype=torch.bool)), ValueError, "ink"),
        (lambda: modified_hausdorff(torch.zeros(3, 2), torch.zeros(3, 1)), ValueError, "b must"),
        (lambda: hausdorff_table([torch.zeros(0, 2)], [torch.zeros(1, 2)]), ValueError, "queries"),
        (lambda: Baseline(nn.Flatten(), 4, 2, head="round"), ValueError, "head"),
        (lambda: Baseline(nn.Flatten(), 4, 2, scale=0.0), ValueError, "scale"),
        (lambda: Baseline(nn.Flatten(), 0, 2), ValueError, "features"),
        (lambda: Baseline(lambda x: x, 4, 2), TypeError, "encoder"),
        (
            lambda: fit_head(torch.zeros(2, 1), torch.tensor([0, 1]), 2, rate=0.0),
            ValueError,
            "rate",
        ),
        (
            lambda: fit_head(torch.zeros(2, 1), torch.tensor([0, 1]), 2, penalty=-1.0),
            ValueError,
            "pen",
        ),
        (lambda: fit_head(torch.zeros(2, 1), torch.tensor([0, 0]), 2), ValueError, "class 1"),
        (lambda: transfer_logits(torch.zeros(2, 3), torch.zeros(2, 4), None), ValueError, "weight"),
        (lambda: load_encoder(10**6), ValueError, "seed"),
        (lambda: have_encoder(0.5), TypeError, "seed"),
    ],
)
def test_bad_input_is_named(call, error, word):
    with pytest.raises(error, match=word):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modified_hausdorff_against_scipy(dtype):
    a, b = (torch.randn(4, n, 3, generator=rng(n), dtype=dtype) for n in (6, 9))
    found = modified_hausdorff(a, b)
    for x, y, one in zip(a, b, found, strict=True):
        far = cdist(x, y)
        assert abs(one - max(far.min(1).mean(), far.min(0).mean())) < 1e-5
        # the distance without the word "modified" takes the largest of the nearest
        assert abs(one - max(far.min(1).max(), far.min(0).max())) > 1e-2
    assert (modified_hausdorff(b, a) - found).abs().max() < 1e-6
    table = hausdorff_table(list(a), list(b))
    assert (table.diagonal() - found).abs().max() < 1e-5


def test_padding_is_not_read():
    a, b = (torch.randn(4, n, 2, generator=rng(n), dtype=torch.float64) for n in (6, 9))
    rows = torch.arange(9) < 5
    padded = torch.where(rows[:, None], b, torch.nan)
    mask = rows.expand(4, 9)
    plain = modified_hausdorff(a, b[:, :5])
    hidden = torch.where(mask[..., None], padded, 0.0)
    assert (modified_hausdorff(a, hidden, None, mask) - plain).abs().max() < 1e-12
    assert (modified_hausdorff(hidden, a, mask, None) - plain).abs().max() < 1e-12


def test_points_are_centered():
    ink = torch.rand(3, 7, 5, generator=rng(0)) > 0.6
    points, mask = ink_points(ink)
    assert (mask.sum(1) == ink.flatten(1).sum(1)).all()
    assert points.sum(1).abs().max() < 1e-12
    shifted, _ = ink_points(torch.nn.functional.pad(ink, (2, 0, 1, 0)))
    assert (shifted - points).abs().max() < 1e-12


def test_the_triangle_inequality_fails():
    a, b, c = (torch.tensor(points)[:, None] for points in ([0.0], [0.0, 2.0], [2.0, 4.0]))
    assert modified_hausdorff(a, c) == 3
    assert modified_hausdorff(a, b) == modified_hausdorff(b, c) == 1


@pytest.mark.skipif(not have_one_shot_runs(), reason="Lake's runs are not at hand")
def test_all_runs_of_lake():
    """The error that is published for this distance, exactly: 155 of 400."""
    runs = one_shot_runs()
    assert runs.support.shape == runs.query.shape == (20, 20, 105, 105)
    assert (runs.labels.sort(1).values == torch.arange(20)).all()
    wrong = []
    for k in range(20):
        sets = [
            [points[row] for points, row in zip(*ink_points(part[k]), strict=True)]
            for part in (runs.query, runs.support)
        ]
        wrong.append(int((hausdorff_table(*sets).argmin(1) != runs.labels[k]).sum()))
    assert wrong == [9, 7, 8, 5, 6, 3, 12, 7, 8, 11, 3, 14, 13, 7, 3, 5, 6, 8, 14, 6]
    assert sum(wrong) / 400 == 0.3875


def test_runs_that_are_others_are_refused(tmp_path, monkeypatch):
    path = tmp_path / ARCHIVE
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run01/class_labels.txt", "")
    monkeypatch.setenv(registry.ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataError, match="sha256"):
        one_shot_runs()


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_heads_of_tasks_do_not_mix(head):
    z = torch.randn(3, 10, 6, generator=rng(0), dtype=torch.float64)
    labels = torch.arange(5).repeat(2).expand(3, 10)
    weight, bias = fit_head(z, labels, 5, head=head, steps=20)
    one, one_bias = fit_head(z[1], labels[1], 5, head=head, steps=20)
    assert (weight[1] - one).abs().max() < 1e-9
    assert (bias is None) == (head == "cosine")
    assert bias is None or (bias[1] - one_bias).abs().max() < 1e-9
    before = cross_entropy(torch.zeros(10, 5), labels[1])
    after = cross_entropy(transfer_logits(z[1], one, one_bias), labels[1])
    assert after < before - 0.3


def test_the_head_minimizes_the_penalized_loss():
    """The gradient of a convex loss vanishes at its minimum, and nowhere else."""
    z = torch.randn(10, 4, generator=rng(0), dtype=torch.float64)
    labels = torch.arange(5).repeat(2)
    weight, bias = fit_head(z, labels, 5, steps=1500, rate=0.01, penalty=0.1)
    w, b = weight.requires_grad_(), bias.requires_grad_()
    loss = cross_entropy(z @ w.mT + b, labels) + 0.05 * w.square().sum()
    slopes = torch.autograd.grad(loss, (w, b))
    assert max(float(s.abs().max()) for s in slopes) < 1e-3


def test_a_cosine_head_does_not_read_lengths():
    z = torch.randn(10, 6, generator=rng(0), dtype=torch.float64)
    labels = torch.arange(5).repeat(2)
    scales = torch.rand(10, 1, generator=rng(1), dtype=torch.float64) + 0.5
    weight, _ = fit_head(z, labels, 5, head="cosine", steps=5)
    scaled, _ = fit_head(scales * z, labels, 5, head="cosine", steps=5)
    assert (weight - scaled).abs().max() < 1e-9
    logits = transfer_logits(z, weight, None, scale=7.0)
    assert (logits - 7 * normalize(z, dim=-1) @ normalize(weight, dim=-1).mT).abs().max() < 1e-12


def test_baseline_learns_its_classes():
    net = Baseline(nn.Flatten(), 16, 3, generator=rng(0))
    x = torch.randn(3, 1, 4, 4, generator=rng(1))
    adam = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(30):
        adam.zero_grad()
        cross_entropy(net(x), torch.arange(3)).backward()
        adam.step()
    assert (net(x).argmax(1) == torch.arange(3)).all()


def test_encoders_come_back_and_others_are_refused(tmp_path, monkeypatch):
    net = Conv4(width=5, norm="running", generator=rng(0))
    net(torch.rand(4, 1, 28, 28))
    path = tmp_path / encoders.FOLDER / "protonet-7.npz"
    digest = encoders.write_encoder(path, net.to(memory_format=torch.channels_last))
    assert encoders.write_encoder(tmp_path / "again.npz", net) == digest
    x = torch.rand(3, 1, 28, 28, generator=rng(1))
    again = encoders.read_encoder(path)
    assert (again(x) - net.eval()(x)).abs().max() < 1e-5
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(encoders.SUMS, 7, digest)
    assert have_encoder(7) and (load_encoder(7)(x) == again(x)).all()
    monkeypatch.setitem(encoders.SUMS, 7, "0" * 64)
    with pytest.raises(DataError, match="sha256"):
        load_encoder(7)
    np.savez(path, a=np.zeros(2))
    with pytest.raises(DataError, match="Conv4"):
        encoders.read_encoder(path)
    (tmp_path / "text.npz").write_text("no weights")
    with pytest.raises(DataError, match="Conv4"):
        encoders.read_encoder(tmp_path / "text.npz")


def test_an_address_of_this_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(encoders.SUMS, 10**6, "0" * 64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not have_encoder(10**6)
    _, address = registry.FILES[f"weights/protonet-{10**6}.npz"]
    assert address.startswith("https://") and address.endswith(
        f"results/weights/protonet-{10**6}.npz"
    )
    del registry.FILES[f"weights/protonet-{10**6}.npz"]
