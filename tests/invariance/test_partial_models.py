"""Causal values from partial logs: against enumeration of whole episodes, and closed forms."""

import itertools

import pytest
import torch

from nodes_tutorial.invariance import (
    POMDP,
    adjust,
    bear_world,
    count_model,
    do_values,
    empirical,
    episode_law,
    expectimax,
    importance_moments,
    logged,
)

F64 = torch.float64


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


def rows(*shape, seed):
    p = torch.rand(*shape, generator=rng(seed)) ** 3 + 0.02
    return p / p.sum(-1, keepdim=True)


def case(seed, steps=2, states=3, symbols=3, actions=2, intents=2, noise=0.3):
    """A random world, a policy that looks, and an actor that may do everything."""
    world = POMDP(
        rows(states, seed=seed),
        rows(actions, states, states, seed=seed + 1),
        rows(states, symbols, seed=seed + 2),
        torch.randn(symbols, generator=rng(seed + 3)),
    )
    policy = [
        rows(*(symbols, actions) * t, symbols, intents, seed=seed + 4 + t) for t in range(steps)
    ]
    actor = (1 - noise) * torch.eye(intents, actions) + noise / actions
    return world, policy, actor


def by_hand(world, policy, actor):
    """Every episode with its hidden states, one after the other."""
    states, symbols = world.emission.shape
    intents, actions = actor.shape
    steps = len(policy)
    law = torch.zeros(*(symbols, intents, actions) * steps, symbols)
    for e in itertools.product(range(states), repeat=steps + 1):
        for y in itertools.product(range(symbols), repeat=steps + 1):
            for z in itertools.product(range(intents), repeat=steps):
                for a in itertools.product(range(actions), repeat=steps):
                    chance = float(world.start[e[0]] * world.emission[e[0], y[0]])
                    place, seen = [], []
                    for t in range(steps):
                        seen.append(y[t])
                        chance *= float(policy[t][tuple(seen)][z[t]] * actor[z[t], a[t]])
                        chance *= float(world.transition[a[t], e[t], e[t + 1]])
                        chance *= float(world.emission[e[t + 1], y[t + 1]])
                        place += [y[t], z[t], a[t]]
                        seen.append(a[t])
                    law[(*place, y[-1])] += chance
    return law


def acting(world, actions):
    """Expected reward of a sequence of actions, by powers of matrices."""
    state = world.start
    for a in actions:
        state = state @ world.transition[a]
    return float(state @ world.emission @ world.reward)


def test_law_of_episodes_is_the_sum_over_hidden_states(measured):
    world, policy, actor = case(0)
    law = episode_law(world, policy, actor)
    error = (law - by_hand(world, policy, actor)).abs().max()
    assert measured(error, "against every episode") < 1e-14


@pytest.mark.claim("thm-partial-backdoor")
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("seed", [10, 20])
def test_adjustment_for_intents_is_the_truth(seed, steps, measured):
    world, policy, actor = case(seed, steps)
    law, truth = episode_law(world, policy, actor), do_values(world, steps)
    for actions in itertools.product(range(2), repeat=steps):
        assert abs(truth[actions] - acting(world, actions)) < 1e-12
    for keep in ("intents", "observations"):
        error = (adjust(logged(law, keep), world.reward) - truth).abs().max()
        assert measured(error, keep) < 1e-12
    naive = adjust(logged(law, "nothing"), world.reward)
    assert (naive - truth).abs().max() > 1e-3
    # the weights must not see the action: p(x, a) / p(a) in place of p(x)
    table = logged(law, "intents")
    wrong = (table @ world.reward).sum(list(range(0, 2 * steps, 2)))
    wrong = wrong / table.sum(-1).sum(list(range(0, 2 * steps, 2)))
    assert (wrong - naive).abs().max() < 1e-12


@pytest.mark.claim("thm-partial-backdoor")
def test_value_of_a_policy_of_the_intents(measured):
    """The closed loop: what to do is read off the intents, and the model knows what that brings."""
    world, policy, actor = case(30)
    table = logged(episode_law(world, policy, actor), "intents")
    chosen = rows(2, 2, seed=31), rows(2, 2, 2, 2, seed=32)  # π(a0 | z0), π(a1 | z0, a0, z1)
    total = table.sum(-1)
    first = total.sum((1, 2, 3))
    second = total.sum(3) / total.sum((2, 3))[:, :, None]
    reward = table @ world.reward / total
    by_model = torch.einsum("i,ij,ijk,ijkl,ijkl->", first, chosen[0], second, chosen[1], reward)
    # the truth: the same policies put into the world, each pair of actions one after the other
    truth = 0.0
    hidden = world.start
    for e, y, i, j in itertools.product(range(3), range(3), range(2), range(2)):
        p = hidden[e] * world.emission[e, y] * policy[0][y, i] * chosen[0][i, j]
        after = world.transition[j, e]
        for f, w, k, action in itertools.product(range(3), range(3), range(2), range(2)):
            q = after[f] * world.emission[f, w] * policy[1][y, j, w, k] * chosen[1][i, j, k, action]
            last = world.transition[action, f] @ world.emission @ world.reward
            truth += float(p * q * last)
    assert measured(abs(float(by_model) - truth), "against the world") < 1e-12


@pytest.mark.claim("prop-partial-confounded")
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.9, 0.1), (0.99, 0.01), (0.3, 0.6)])
def test_naive_value_of_the_bear(p, q, measured):
    world, policy, actor = bear_world(p, q, 0.2)
    law = episode_law(world, policy, actor)
    assert (adjust(logged(law, "intents"), world.reward) - do_values(world, 2)).abs().max() < 1e-14
    a, b = 0.8 * p + 0.1, 0.8 * q + 0.1  # with the noise
    naive = float(adjust(logged(law, "nothing"), world.reward)[1, 1])
    assert measured(abs(naive - (a - b / 2) / (a + b)), "formula") < 1e-14
    assert (abs(naive - 0.25) < 1e-12) == (p == q)
    exact = {(0.9, 0.1): 0.85, (0.99, 0.01): 0.985, (0.5, 0.5): 0.25}
    if (p, q) in exact:
        world, policy, actor = bear_world(p, q)
        table = logged(episode_law(world, policy, actor), "nothing")
        found = adjust(table, world.reward, unseen=0.0)[1, 1]
        assert abs(float(found) - exact[p, q]) < 1e-14


@pytest.mark.claim("prop-partial-confounded")
def test_a_policy_that_does_not_look_needs_no_adjustment(measured):
    world, policy, actor = case(40)
    first = policy[0][0].expand(3, 2)
    second = policy[1][0, :, 0].expand(3, 3, 2, 2).transpose(1, 2)  # of the earlier action alone
    law = episode_law(world, [first, second], actor)
    naive = adjust(logged(law, "nothing"), world.reward)
    assert measured((naive - do_values(world, 2)).abs().max(), "blind policy") < 1e-12


@pytest.mark.claim("prop-partial-importance")
@pytest.mark.parametrize(("q", "variance"), [(0.5, 1.1875), (0.9, 1.7431), (0.1, 5.0764)])
def test_variance_of_always_hugging(q, variance, measured):
    world, policy, actor = bear_world(q, 1 - q)
    hugging = bear_world(1.0, 1.0)[1]
    laws = [logged(episode_law(world, p, actor), "observations") for p in (policy, hugging)]
    found = importance_moments(*laws, world.reward)
    formula = 1 / (2 * q) + 1 / (8 * (1 - q)) - 1 / 16
    assert abs(formula - variance) < 5e-5
    assert measured(abs(float(found.variance) - formula), "formula") < 1e-14
    assert abs(float(found.mean) - 0.25) < 1e-14
    # ten thousand draws: four standard errors of mean and variance
    drawn = torch.multinomial(laws[0].flatten(), 40_000, replacement=True, generator=rng(50))
    weight = (laws[1].flatten() / laws[0].flatten().clamp_min(1e-300))[drawn]
    sample = weight * world.reward.expand(laws[0].shape).flatten()[drawn]
    assert abs(sample.mean() - 0.25) < 4 * (formula / 40_000) ** 0.5
    assert abs(sample.var() / formula - 1) < 0.1


@pytest.mark.claim("prop-partial-importance")
def test_weights_multiply_over_the_steps(measured):
    """Random world: unbiased, and the second moment of blind policies is a product."""
    world, policy, actor = case(60)
    target = [rows(*table.shape, seed=61 + t) for t, table in enumerate(policy)]
    laws = [logged(episode_law(world, p, actor), "observations") for p in (policy, target)]
    found = importance_moments(*laws, world.reward)
    assert measured((found.mean - (laws[1] @ world.reward).sum()).abs(), "mean") < 1e-12
    weight = laws[1] / laws[0]
    slow = (laws[0] * (weight * world.reward - found.mean).square()).sum()
    assert measured((found.variance - slow).abs(), "variance") < 1e-12
    blind = [torch.full_like(table, 0.5) for table in policy]
    only = [torch.zeros_like(table) for table in policy]
    for table in only:
        table[..., 1] = 1
    ones = world._replace(reward=torch.ones(3))
    laws = [logged(episode_law(ones, p, torch.eye(2)), "observations") for p in (blind, only)]
    second = importance_moments(*laws, ones.reward)
    assert measured((second.variance - 3).abs(), "2 to the power of the steps, less 1") < 1e-12


@pytest.mark.claim("prop-partial-logs")
def test_two_worlds_have_the_same_logs():
    world, policy, actor = bear_world(0.9, 0.1)
    other, blind, _ = bear_world(0.5, 0.5)
    transition = other.transition.clone()
    transition[1, 0] = torch.tensor([0, 0, 0.9, 0.1, 0])
    other = other._replace(transition=transition)
    laws = [episode_law(world, policy, actor), episode_law(other, blind, actor)]
    for keep in ("nothing", "intents"):
        apart = (logged(laws[0], keep) - logged(laws[1], keep)).abs().max()
        assert apart < 1e-15
    assert (logged(laws[0], "observations") - logged(laws[1], "observations")).abs().max() > 0.1
    values = [float(do_values(one, 2)[1, 1]) for one in (world, other)]
    assert abs(values[0] - 0.25) < 1e-12 and abs(values[1] - 0.85) < 1e-12
    # with noise the intents tell the two apart
    noisy = [
        logged(episode_law(w, p, bear_world(0.0, 0.0, 0.2)[2]), "intents")
        for w, p in ((world, policy), (other, blind))
    ]
    assert (noisy[0] - noisy[1]).abs().max() > 0.01


def test_positivity_and_unseen_cells():
    world, policy, actor = bear_world(0.9, 0.1)
    table = logged(episode_law(world, policy, actor), "intents")
    with pytest.raises(ValueError, match="positivity"):
        adjust(table, world.reward)
    # home is never tried: all of it is assumed
    assert adjust(table, world.reward, unseen=7.0)[0, 0] == 7
    # hugging against the intent to run is never seen: half of the value is assumed
    assert abs(adjust(table, world.reward, unseen=0.0)[1, 1] - 0.5 * 0.85) < 1e-14
    assert abs(adjust(table, world.reward, unseen=1.0)[1, 1] - 0.5 * 0.85 - 0.5) < 1e-14


def test_counts_come_near_and_scale_does_not_matter():
    world, policy, actor = bear_world(0.9, 0.1, 0.3)
    law = episode_law(world, policy, actor)
    drawn = empirical(law, 40_000, rng(70))
    assert drawn.sum() == 40_000 and drawn.shape == law.shape
    found = adjust(logged(drawn, "intents"), world.reward)
    assert (found - do_values(world, 2)).abs().max() < 0.05
    scaled = adjust(logged(drawn / 40_000, "intents"), world.reward)
    assert (found - scaled).abs().max() < 1e-12
    single = adjust(logged(law.float(), "intents"), world.reward.float())
    assert single.dtype == torch.float32


# --- planning ------------------------------------------------------------------------------------


def test_plan_is_the_best_of_all_plans(measured):
    """All functions from steps, places and intents to actions, by brute force."""
    intents, reward = rows(2, 2, seed=80), torch.randn(2, 2, 2, generator=rng(81))
    transition = rows(2, 2, 2, 2, seed=82)
    plan = expectimax(intents, reward, transition, steps=2)
    best = torch.full((2,), -torch.inf)
    for choice in itertools.product((0, 1), repeat=8):
        table = torch.tensor(choice).view(2, 2, 2)
        value = torch.zeros(2)
        for t in (1, 0):
            picked = table[t][..., None]
            gain = reward.gather(2, picked)[..., 0]
            follow = transition.gather(2, picked[..., None].expand(2, 2, 1, 2))[:, :, 0]
            value = (intents * (gain + follow @ value)).sum(1)
        best = torch.maximum(best, value)
    assert measured((plan.value[0] - best).abs().max(), "brute force") < 1e-12
    assert plan.value.shape == (3, 2) and plan.action.shape == (2, 2, 2)


def test_counted_model_is_the_law():
    n = 200_000
    intents, transition = rows(2, 2, seed=90), rows(2, 2, 2, 2, seed=91)
    s = torch.randint(2, (n,), generator=rng(92))
    z = (torch.rand(n, generator=rng(93)) < intents[s, 1]).long()
    a = torch.randint(2, (n,), generator=rng(94))
    after = (torch.rand(n, generator=rng(95)) < transition[s, z, a, 1]).long()
    r = (s + 2 * z + 4 * a + 8 * after).double()
    found = count_model(s, z, a, r, after, sizes=(2, 2, 2), unseen=-1.0)
    grid = torch.cartesian_prod(*3 * [torch.arange(2)]).view(2, 2, 2, 3).double()
    mean = grid @ torch.tensor([1.0, 2.0, 4.0]) + 8 * transition[..., 1]
    for ours, wanted in zip(found, (intents, mean, transition), strict=True):
        assert (ours - wanted).abs().max() < 0.1
    few = count_model(s[:1], z[:1], a[:1], r[:1], after[:1], sizes=(2, 2, 2), unseen=-1.0)
    assert (few[1] == -1).sum() == 7 and (few[2].sum(-1) == 1).all()
    assert (few[0].sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda w, p, m: episode_law(w, p[::-1], m), "policy must have the shape"),
        (lambda w, p, m: episode_law(w, p, 2 * m), "actor must hold probabilities"),
        (lambda w, p, m: episode_law(w, p, m[:, :1]), "actor must have the shape"),
        (lambda w, p, m: episode_law(w._replace(start=w.start / 2), p, m), "start must hold"),
        (lambda w, p, m: logged(episode_law(w, p, m), "all"), "keep must be one of"),
        (lambda w, p, m: logged(episode_law(w, p, m)[0], "intents"), "law must have the axes"),
        (lambda w, p, m: adjust(torch.ones(2, 2), w.reward), "table must have the axes"),
        (lambda w, p, m: adjust(torch.ones(2, 2, 4), w.reward), "table must have the axes"),
        (lambda w, p, m: do_values(w, 0), "steps must be at least 1"),
        (
            lambda w, p, m: importance_moments(torch.ones(2, 5), torch.ones(3, 5), w.reward),
            "behaviour, target and reward must fit",
        ),
        (
            lambda w, p, m: importance_moments(torch.zeros(2, 5), torch.ones(2, 5), w.reward),
            "target must do only what behaviour may do",
        ),
        (lambda w, p, m: empirical(torch.ones(2), 0), "episodes must be at least 1"),
        (lambda w, p, m: bear_world(1.2, 0.1), "hug_teddy must be a probability"),
        (
            lambda w, p, m: expectimax(
                torch.ones(2, 1), torch.ones(2, 1, 2), torch.ones(2, 1, 2, 3), steps=1
            ),
            "intents, reward and transition must fit",
        ),
        (
            lambda w, p, m: count_model(
                *3 * [torch.zeros(2).long()],
                torch.zeros(3),
                torch.zeros(2).long(),
                sizes=(1, 1, 1),
                unseen=0.0,
            ),
            "must have the same rows",
        ),
    ],
)
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_is_named(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt(*bear_world(0.9, 0.1, 0.1))
