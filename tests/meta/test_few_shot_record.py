"""The recorded trainings of prototype networks, and the encoders that they left."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from nodes_tutorial.data.drawings import have_omniglot, omniglot, select
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.meta import ProtoNet, embed, encoders, episode_accuracies, load_encoder

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "results" / "few_shot.json").read_text(encoding="utf-8"))["rows"]
NO_LATIN = [row for row in ROWS if (row["part"], row["episodes"]) == ("no_latin", 3000)]


def shares(data, ways, shots, what="accuracy"):
    """One number a training, in percent."""
    key = {"data": data, "ways": ways, "shots": shots}
    tests = [t for row in NO_LATIN for t in row["tests"] if key.items() <= t.items()]
    return 100 * torch.tensor([test[what] for test in tests], dtype=torch.float64)


@pytest.mark.claim("obs-few-shot-encoders")
def test_features_carry_over():
    """Bounds are at least three standard deviations of a mean of three below the means."""
    assert [row["seed"] for row in NO_LATIN] == [0, 1, 2]
    for data, least, told in (
        ("Latin", 45, (92.95, 45.66)),
        ("en62", 18, (75.14, 54.81)),
        ("MNIST", 4, (63.38, 55.86)),
    ):
        ours, pixels = shares(data, 5, 1), shares(data, 5, 1, "pixels")
        assert tuple(round(float(x.mean()), 2) for x in (ours, pixels)) == told
        gap = ours - pixels
        assert gap.mean() - 3 * gap.std() / 3**0.5 > least


@pytest.mark.parametrize("seed", sorted(encoders.SUMS))
def test_weights_are_those_of_the_record(seed):
    path = ROOT / encoders.FOLDER / f"protonet-{seed}.npz"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == encoders.SUMS[seed] == NO_LATIN[seed]["weights_sha256"]
    assert path.stat().st_size < 300_000
    net = load_encoder(seed)
    assert net.features == 128 and not net.training


@pytest.mark.skipif(not have_omniglot("all"), reason="Omniglot is not at hand")
def test_an_encoder_is_as_good_as_its_record():
    letters = omniglot("all")
    names = [i for i, alphabet in enumerate(letters.alphabets) if alphabet == "Latin"]
    latin = select(letters, names)
    features = embed(load_encoder(0), latin.images)
    sampler = TaskSampler(features, latin.labels, ways=5, shots=1, queries=15)
    tasks = sampler.sample(300, torch.Generator().manual_seed(1))
    net = ProtoNet(torch.nn.Flatten(), check=False)
    mean = 100 * float(episode_accuracies(net, tasks, apart=False).mean())
    assert abs(mean - float(shares("Latin", 5, 1)[0])) < 2  # 300 episodes have a spread of 0.5
