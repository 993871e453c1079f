"""The same laws where there is a GPU: fits, both searches, precision, files, and the way between devices."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import skequinas
from skequinas import EquivariantNASClassifier
from skequinas.groups import PointGroup
from skequinas.io import checkpoints, stored
from skequinas.nn import Architecture, EquivariantNetwork, default_architecture
from skequinas.runtime.process import full_precision
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, loop, train
from skequinas.training.recording import Recorded, RecordedUpdate, recorded
from skequinas.training.residuals import ResidualSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

D4 = PointGroup.from_name("D4")


def digits() -> tuple[Any, Any]:
    X, y = load_digits(n_class=4, return_X_y=True)
    return X, y


def fitted(device: str = "cuda", **settings: Any) -> EquivariantNASClassifier:
    X, y = digits()
    options = {"max_epochs": 4, "random_state": 0, "device": device} | settings
    return EquivariantNASClassifier("D4", **options).fit(X, y)


@pytest.mark.parametrize(
    "search",
    [
        "none",
        "evolutionary",
        "differentiable",
        "adaptive",
        "residual",
        "penalised",
        "augmentation",
        "relaxation",
        "streams",
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_learns_and_its_model_is_on_the_cpu(search: str, precision: str) -> None:
    X, y = digits()
    model = fitted(search=search, precision=precision)
    assert model.score(X, y) > 0.9
    assert {p.device.type for p in model.network_.parameters()} == {"cpu"}


def test_by_default_the_gpu_is_used() -> None:
    X, y = digits()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    EquivariantNASClassifier("D4", "none", max_epochs=1, random_state=0).fit(X, y)
    assert torch.cuda.max_memory_allocated() > before


def test_predictions_are_those_of_the_cpu(tmp_path: Path) -> None:
    X, _ = digits()
    model = fitted(search="none")
    skequinas.save(model, tmp_path / "model.safetensors")
    other = skequinas.load(tmp_path / "model.safetensors").set_params(device="cpu")
    np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("search", ["none", "evolutionary"])
def test_a_fit_can_be_repeated(search: str) -> None:
    X, _ = digits()
    one, other = (fitted(search=search).predict_proba(X) for _ in range(2))
    np.testing.assert_allclose(one, other, atol=1e-3)


class Dead(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("search", ["none", "evolutionary", "differentiable", "adaptive"])
def test_a_fit_that_was_killed_goes_on(search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = digits()
    expected = fitted(search=search).predict_proba(X)
    steps, deadly = iter(range(10**6)), [7, 15, 25]  # of all trainings
    keep = checkpoints.Keeper.step
    monkeypatch.setattr(checkpoints, "_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)

    def step(keeper: checkpoints.Keeper) -> None:
        keep(keeper)
        if deadly and next(steps) == deadly[0]:
            deadly.pop(0)
            raise Dead

    monkeypatch.setattr(checkpoints.Keeper, "step", step)
    for _ in list(deadly):
        with pytest.raises(Dead):
            fitted(search=search, checkpoint=tmp_path)
    np.testing.assert_allclose(fitted(search=search, checkpoint=tmp_path).predict_proba(X), expected, atol=1e-3)


def test_a_fit_with_a_budget_can_be_done_again() -> None:
    X, _ = digits()
    one = fitted(search="evolutionary", max_epochs=100, time_budget=8.0)
    other = fitted(search="evolutionary", max_epochs=100, time_budget=one.budget_record_)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("search", ["none", "differentiable"])
def test_images_beyond_memory(search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = digits()
    np.save(tmp_path / "X.npy", (X * 15).astype(np.uint8))
    options: dict[str, Any] = {"max_epochs": 2, "random_state": 0, "device": "cuda"}
    expected = EquivariantNASClassifier("D4", search, **options).fit(np.load(tmp_path / "X.npy"), y)
    monkeypatch.setattr(stored, "_LARGE", 1)
    images = np.load(tmp_path / "X.npy", mmap_mode="r")
    found = EquivariantNASClassifier("D4", search, **options).fit(images, y)
    np.testing.assert_allclose(found.predict_proba(images), expected.predict_proba(images), atol=1e-3)


def test_where_memory_is_short_batches_are_halved() -> None:
    X, y = load_digits(return_X_y=True)
    X = np.tile(X.reshape(-1, 8, 8), (1, 4, 4)) + np.random.default_rng(0).normal(0, 4, (len(X), 32, 32))
    options: dict[str, Any] = {"search": "none", "max_epochs": 1, "random_state": 0, "device": "cuda", "width": 64}
    options |= {"early_stopping": False, "averaging": "none", "augment": "none"}
    needed = {}
    for size in (512, 256):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        expected = EquivariantNASClassifier("C2", batch_size=size, **options).fit(X, y)
        needed[size] = torch.cuda.max_memory_allocated()
    assert needed[512] > 1.3 * needed[256]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.97 * needed[512] / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.warns(UserWarning, match="Memory did not suffice for mini-batches of 512 images"):
            found = EquivariantNASClassifier("C2", batch_size=512, **options).fit(X, y)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_recorded_steps_are_those_that_are_not(mixed: bool, dtype: torch.dtype) -> None:
    architecture = default_architecture(D4, 28, 1, 5)
    if mixed:
        architecture = architecture.with_constraints((D4.subgroups,) * architecture.n_layers)
    one = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).to("cuda").train()
    other = copy.deepcopy(one)
    weights = [list(network.parameters()) for network in (one, other)]
    with recorded(one, torch.device("cuda"), 1000) as call:
        for number, n in enumerate((16, 17, 16, 15, 16, 14)):  # the last is one shape too many
            x = torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(number)).to("cuda")
            found = []
            with full_precision():
                for function, own in zip((call, other), weights, strict=True):
                    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                        y = function(x).float()
                    grads = torch.autograd.grad(y.square().mean(), own, allow_unused=True)
                    found.append([y, *(g for g in grads if g is not None)])
            for value, expected in zip(*found, strict=True):
                bound = 1e-4 if dtype == torch.float32 else 0.1
                assert (value - expected).abs().max() <= bound * expected.abs().max().clamp_min(1e-3)
        assert isinstance(call, Recorded)
        assert len(call._known) == 3
        assert all("forward" in recording.__dict__ for recording in call._known.values())
    for (name, own), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(own, expected, rtol=1e-3, atol=1e-3), name
    assert copy.deepcopy(one.cpu())(torch.zeros(2, 1, 28, 28)).shape == (2, 5)


def soft(architecture: Architecture) -> Architecture:
    ends = ((D4.whole, D4.trivial),) * architecture.n_layers
    return replace(architecture.with_constraints(ends), mixing="residual")


def few_steps(network: EquivariantNetwork, data: DataPart, settings: TrainingSettings, mixed: bool) -> None:
    """Eight of those of two epochs: after many, round-off of one in a million has become percents."""
    number = iter(range(1, 33))
    alpha_data = data if mixed else None
    train(network, data, settings, 2, seed=0, alpha_data=alpha_data, on_step=lambda: next(number) == 8)


@pytest.mark.parametrize("kind", ["plain", "mixed", "adaptive", "relaxed"])
def test_a_training_by_recorded_steps_is_one_by_steps_that_are_not(kind: str) -> None:
    architecture = default_architecture(D4, 28, 1, 5, width=16)
    mixed, residuals = kind == "mixed", None
    if mixed:
        architecture = architecture.with_constraints((D4.subgroups,) * architecture.n_layers)
    elif kind == "adaptive":
        architecture, residuals = soft(architecture), ResidualSettings(rate=0.1)
    elif kind == "relaxed":
        residuals = ResidualSettings(relaxation=0.5)
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(128, 1, 28, 28, generator=generator), torch.randint(5, (128,), generator=generator)
    data = DataPart(images.cuda(), targets.cuda(), nn.Identity(), CLASSIFICATION)
    one = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).to("cuda")
    other, start = copy.deepcopy(one), copy.deepcopy(one)
    settings = TrainingSettings(optimizer="muon", batch_size=8, schedule="constant", learning_rate=1e-3)
    settings = replace(settings, residuals=residuals)
    replays: list[RecordedUpdate] = []
    own = RecordedUpdate.__call__

    def watched(self: RecordedUpdate, *given: torch.Tensor) -> None:
        own(self, *given)
        replays.extend([self] if self._graph is not None else [])

    with pytest.MonkeyPatch.context() as patch, full_precision():
        patch.setattr(RecordedUpdate, "__call__", watched)
        few_steps(one, data, settings, mixed)
        assert len(replays) == 6  # of 8 steps
        patch.setattr(loop, "recorded", lambda network, *_: nullcontext(network))
        few_steps(other, data, settings, mixed)
        assert len(replays) == 6
        with torch.no_grad():
            y, expected, before = (network.eval()(data.images) for network in (one, other, start))
    assert (y - expected).abs().max() <= 0.02 * expected.abs().max()
    assert (expected - before).abs().max() > 0.2 * expected.abs().max()


@pytest.mark.parametrize("name", ["D4", "C4", "C1"])
def test_a_network_is_the_same_function_on_both(name: str) -> None:
    architecture = default_architecture(D4, 28, 3, 5).with_constraints(
        (D4.subgroup(name),) * default_architecture(D4, 28, 3, 5).n_layers
    )
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    y = network(x)
    there = network.to("cuda")(x.to("cuda")).cpu()
    assert (there - y).abs().max() <= 1e-3 * y.abs().max()
