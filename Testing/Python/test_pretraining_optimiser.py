"""The optimiser of pretraining: against torch's AdamW, against the singular value decomposition, and kept in a file."""

import copy

import pytest

torch = pytest.importorskip("torch")

from DiffPoseSlicerLib.pretraining.optimiser import Muon, orthogonal  # noqa: E402


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 4, 3))


def learn(model, optimiser, steps, images):
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (model(images) - 1).square().mean()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


@pytest.mark.parametrize("shape", [(8, 72), (64, 16), (32, 32)])
def test_orthogonalising_keeps_singular_vectors_and_brings_their_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix = matrix + 0.5 * torch.eye(*shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonal(matrix) @ v.T
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=2e-3)
    big = inner.diagonal()[torch.linalg.svdvals(matrix) > 0.05 * torch.linalg.svdvals(matrix).max()]
    assert big.min() > 0.6 and big.max() < 1.25


def test_adamw_is_torchs():
    images = torch.randn(4, 2, 4, 4)
    ours, theirs = network(), network()
    learn(ours, Muon(ours.parameters(), 1e-2, 1e-2, "adamw"), 6, images)
    learn(theirs, torch.optim.AdamW(theirs.parameters(), 1e-2, (0.9, 0.99), weight_decay=1e-2), 6, images)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_convolutions_step_by_the_rate_whatever_their_gradients_size():
    model = network()
    before = model[0].weight.detach().clone()
    optimiser = Muon(model.parameters(), 1e-4, 0.0)
    (1e-3 * model(torch.randn(4, 2, 4, 4)).sum()).backward()
    optimiser.step()
    moved = torch.linalg.svdvals((model[0].weight - before).detach().reshape(8, -1))
    assert moved.max() == pytest.approx(1e-3, rel=0.35)


def test_it_learns_and_goes_on_from_its_state():
    images = torch.randn(4, 2, 4, 4)
    model = network()
    optimiser = Muon(model.parameters(), 1e-3, 1e-2)
    first = learn(model, optimiser, 1, images)
    learn(model, optimiser, 4, images)
    other = copy.deepcopy(model)
    resumed = Muon(other.parameters(), 1e-3, 1e-2)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    last = learn(model, optimiser, 5, images)
    assert last < 0.8 * first and learn(other, resumed, 5, images) == last


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown optimiser 'sgd'"):
        Muon(network().parameters(), 1e-3, 0.0, "sgd")
