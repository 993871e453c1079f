"""A fit that is killed at any moment goes on where it was, to the same model."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

import skequinas
from skequinas import (
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    FitProgress,
    LearnedAugmentation,
)
from skequinas.io import checkpoints, stored
from skequinas.runtime.process import torch_threads
from skequinas.training import DataPart
from skequinas.training.monitor import Clock, Monitor

X, y = (values[:240] for values in load_digits(n_class=4, return_X_y=True))

forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a forked process has."""
    with torch_threads(1):
        yield


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a training after each of its steps."""
    monkeypatch.setattr(checkpoints, "_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)


def model(folder: Path | None = None, search: Any = "evolutionary", **own: Any) -> EquivariantNASClassifier:
    settings = {"group": "C4", "max_epochs": 3, "random_state": 0} | own
    return EquivariantNASClassifier(search=search, checkpoint=folder, **settings)


@cache
def fitted(search: Any = "evolutionary", **own: Any) -> EquivariantNASClassifier:
    return model(None, search, **own).fit(X, y)


def assert_equal(one: EquivariantNASClassifier, other: EquivariantNASClassifier) -> None:
    assert one.architecture_ == other.architecture_
    assert str(one.learned_symmetry_) == str(other.learned_symmetry_)
    for name, value in one.network_.state_dict().items():
        assert torch.equal(value, other.network_.state_dict()[name]), name
    for columns, others in ((one.history_, other.history_), (one.search_results_, other.search_results_)):
        assert columns.keys() == others.keys()
        for name in columns.keys() - {"seconds"}:
            np.testing.assert_array_equal(columns[name], others[name])
    assert one.learned_symmetry_.measured_change == other.learned_symmetry_.measured_change
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@forks
@pytest.mark.parametrize(
    ("search", "own"),
    [
        ("evolutionary", {}),
        pytest.param("differentiable", {"optimizer": "adamw"}, marks=pytest.mark.exhaustive),
        pytest.param("none", {"early_stopping": True, "n_iter_no_change": 2}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_fit_that_is_killed_again_and_again_ends_as_if_never(
    search: Any, own: dict[str, Any], tmp_path: Path, every_step: None
) -> None:
    started = time.perf_counter()
    expected = fitted(search, **own)
    seconds = time.perf_counter() - started
    processes, rng = multiprocessing.get_context("fork"), random.Random(0)
    kills = 0
    while kills < 20:
        process = processes.Process(target=model(tmp_path, search, **own).fit, args=(X, y))
        process.start()
        process.join(rng.uniform(0.02, seconds / 5))
        if not process.is_alive():
            assert process.exitcode == 0
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills > 3
    assert_equal(model(tmp_path, search, **own).fit(X, y), expected)


class Dead(BaseException):
    """Stands for the end of the process."""


class Steps:
    """Counts the steps of all trainings, and ends the process after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, final: Path | None = None) -> None:
        self.n, self.deadly = 0, set[int]()
        keep = checkpoints.Keeper.step

        def step(keeper: checkpoints.Keeper) -> None:
            keep(keeper)
            self.n += final is None or (final / "training.safetensors").exists()  # of the final training alone
            if self.n in self.deadly:
                self.deadly = self.deadly - {self.n}
                raise Dead

        monkeypatch.setattr(checkpoints.Keeper, "step", step)


@pytest.mark.parametrize(
    ("search", "own"),
    [
        (EvolutionarySearch(guided=False, n_generations=2), {"group": "C2"}),
        (DifferentiableSearch(discretize=False), {}),
        ("adaptive", {}),
        pytest.param("residual", {}, marks=pytest.mark.exhaustive),
        pytest.param("penalised", {}, marks=pytest.mark.exhaustive),
        (LearnedAugmentation(2), {}),
        pytest.param("relaxation", {"optimizer": "sgd"}, marks=pytest.mark.exhaustive),
        pytest.param("streams", {}, marks=pytest.mark.exhaustive),
        ("none", {"augment": "continuous", "averaging": "always"}),
    ],
    ids=lambda value: str(value).partition("(")[0],
)
def test_every_search_goes_on(
    search: Any, own: dict[str, Any], tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"max_epochs": 2} | own
    expected = fitted(search, **own)
    steps = Steps(monkeypatch)
    steps.deadly = {2, 4, 5}
    for _ in list(steps.deadly):
        with pytest.raises(Dead):
            model(tmp_path, search, **own).fit(X, y)
    assert_equal(model(tmp_path, search, **own).fit(X, y), expected)


def test_no_step_is_made_twice(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    expected = model(tmp_path / "whole").fit(X, y)
    n_steps, steps.n = steps.n, 0
    steps.deadly = {1, 2, n_steps // 3, n_steps // 2, n_steps - 1, n_steps}
    for _ in list(steps.deadly):
        with pytest.raises(Dead):
            model(tmp_path / "killed").fit(X, y)
    assert_equal(model(tmp_path / "killed").fit(X, y), expected)
    assert steps.n == n_steps


def test_a_fit_that_was_finished_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model(tmp_path).fit(X, y)
    steps = Steps(monkeypatch)
    steps.deadly = {1}
    again = model(tmp_path).fit(X, y)
    assert_equal(again, first)
    np.testing.assert_array_equal(again.history_["seconds"], first.history_["seconds"])
    assert steps.n == 0


def test_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    assert_equal(model(tmp_path / "new" / "folder").fit(X, y), fitted())


def test_candidates_of_other_processes_are_kept_too(
    tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = EvolutionarySearch(guided=False, n_generations=1, warmup_epochs=0.5)
    expected = fitted(search)
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(stored, "_LARGE", 1)
    in_file = np.load(tmp_path / "X.npy", mmap_mode="r")
    steps = Steps(monkeypatch)  # which other processes do not count
    steps.deadly = {5}  # of the final training
    with pytest.raises(Dead):
        model(tmp_path, search, n_jobs=2).fit(in_file, y)
    n_candidates = len(list(tmp_path.glob("candidate-*.safetensors")))
    assert n_candidates == len(expected.search_results_["candidate"]) > 2
    assert_equal(model(tmp_path, search, n_jobs=2).fit(in_file, y), expected)


def test_a_regression_goes_on(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"group": "C2", "max_epochs": 2, "random_state": 0}
    targets = X.mean(1)
    expected = EquivariantNASRegressor(**settings).fit(X, targets)
    steps = Steps(monkeypatch)
    steps.deadly = {7}
    with pytest.raises(Dead):
        EquivariantNASRegressor(**settings, checkpoint=tmp_path).fit(X, targets)
    found = EquivariantNASRegressor(**settings, checkpoint=tmp_path).fit(X, targets)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))


def test_without_a_seed_the_first_one_stays(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    steps.deadly = {9}
    with pytest.raises(Dead):
        model(tmp_path, random_state=None).fit(X, y)
    found = model(tmp_path, random_state=None).fit(X, y)
    assert_equal(model(tmp_path, random_state=None).fit(X, y), found)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"X": X[::-1]}, "X differs"),
    ({"X": X + 1}, "X differs"),
    ({"y": y[::-1]}, "y differs"),
    ({"sample_weight": np.arange(1, len(y) + 1)}, "sample_weight differs"),
    ({"groups": np.arange(len(y)) // 2}, "groups differs"),
    ({"validation_data": (X[:9] + 1, y[:9])}, "validation_data differs"),
    ({"learning_rate": 0.01}, "learning_rate is 0.01, there 0.005"),
    ({"search": "none"}, "search is 'none', there 'evolutionary'"),
    ({"search": EvolutionarySearch(tolerance=2.0)}, r"search is EvolutionarySearch\(tolerance=2.0\), there"),
    ({"random_state": 1}, "random_state differs"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_another_fit_is_refused(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(Stopped):
        model(tmp_path, callback=stopping).fit(X, y)
    data = {"X": X, "y": y} | {k: v for k, v in other.items() if k not in model().get_params()}
    own = {k: v for k, v in other.items() if k not in data}
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.raises(ValueError, match=f"checkpoint=.* holds another fit: {message}.*folder of its own"):
        model(tmp_path, **own).fit(**data)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


class Stopped(Exception):
    """Raised by a callback."""


def stopping(_: object) -> None:
    raise Stopped


def test_what_changes_no_model_may_change(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        model(tmp_path, callback=stopping).fit(X, y)
    other = model(tmp_path, verbose=0, n_jobs=1, device="cpu", on_interrupt="raise", warm_start=True)
    assert_equal(other.fit(X, y), fitted())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("here")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        model(place).fit(X, y)
    assert place.read_text() == "here"


def test_a_fitted_model_goes_on_either_way_but_not_both(tmp_path: Path) -> None:
    first = model(tmp_path, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True goes on with this model, and checkpoint="):
        first.fit(X, y)
    assert_equal(clone(first).fit(X, y), first)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file with one bit flipped, or cut short."""
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        return content[:place]
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def test_damaged_files_are_not_believed(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    search = EvolutionarySearch(guided=False, n_generations=1)
    expected = fitted(search)
    steps = Steps(monkeypatch)
    steps.deadly = {12}
    with pytest.raises(Dead):
        model(tmp_path / "sound", search).fit(X, y)
    steps.deadly, rng = set(), random.Random(0)
    for number in range(50):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "sound", folder)
        path = rng.choice(files(folder))
        path.write_bytes(damaged(path.read_bytes(), rng))
        with pytest.raises(skequinas.io.FileError, match=path.name):
            checkpoints.read_part(path)
        if number < 6:
            with pytest.warns(UserWarning, match=rf"{path.name}.*(damaged|not a file).*done again"):
                found = model(folder, search).fit(X, y)
            assert_equal(found, expected)


@pytest.mark.parametrize("error", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.exhaustive)])
def test_where_nothing_can_be_written_the_fit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    written = 0

    def full(*args: Any) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(error, os.strerror(error))
        write(*args)

    write = checkpoints.write_file
    monkeypatch.setattr(checkpoints, "write_file", full)
    with pytest.warns(UserWarning, match="cannot be written .*fit goes on, and nothing more of it is kept") as warned:
        found = model(tmp_path).fit(X, y)
    assert len(warned) == 1
    assert_equal(found, fitted())
    monkeypatch.undo()
    assert_equal(model(tmp_path).fit(X, y), found)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be written"):
        model(tmp_path / "new").fit(X, y)


def test_what_a_folder_holds(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    steps.deadly = {4, 6, 10}
    told = []
    for _ in list(steps.deadly):
        with pytest.raises(Dead):
            model(tmp_path, EvolutionarySearch(level=0.02), n_jobs=1, callback=print).fit(X, y)
        kept = skequinas.resume(tmp_path)
        told.append((kept.is_finished, kept.n_candidates, kept.in_training, kept.epoch, kept.damaged))
    assert told[:2] == [(False, 0, "candidate 0", 1.0, ()), (False, 0, "candidate 0", 2.0, ())]
    assert told[2:] == [(False, 1, "candidate 1", 1 / 3, ())]
    assert "not finished: it was training candidate 1, of which 0.333 epochs are over" in str(kept)
    own = {"checkpoint": str(tmp_path), "callback": None, "search": None}
    expected = model(tmp_path, n_jobs=1).get_params(deep=False) | own
    assert kept.estimator.get_params(deep=False) | {"search": None} == expected
    assert kept.estimator.search.level == 0.02
    kept.estimator.fit(X, y)
    kept = skequinas.resume(tmp_path)
    assert kept.is_finished
    assert "The fit is finished, after" in str(kept)
    (tmp_path / "candidate-0.safetensors").write_bytes(b"")
    assert skequinas.resume(tmp_path).damaged == ("candidate-0.safetensors",)
    (tmp_path / "fit.safetensors").write_bytes(b"")
    with pytest.raises(skequinas.io.FileError, match="fit.safetensors"):
        skequinas.resume(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no fit"):
        skequinas.resume(tmp_path / "nowhere")


def budgeted(seconds: Any, folder: Path | None = None, **own: Any) -> EquivariantNASClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(folder, time_budget=seconds, **own).fit(X, y)


@pytest.mark.parametrize(("seconds", "search"), [(1.5, "differentiable"), (0.05, "evolutionary")])
def test_a_fit_with_a_budget_can_be_done_again(seconds: float, search: Any) -> None:
    first = budgeted(seconds, search=search, max_epochs=100)
    record = json.loads(json.dumps(first.budget_record_))
    again = budgeted(record, search=search, max_epochs=100)
    assert_equal(again, first)
    assert again.budget_record_ == record
    assert record["seconds"] == seconds


@pytest.mark.parametrize("n_questions", [2, 9, 16, 24])
def test_what_was_cut_is_cut_again(n_questions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    search = EvolutionarySearch(guided=False, n_generations=2)
    asked = 0

    def is_over(clock: Clock) -> bool:
        nonlocal asked
        asked += 1
        clock.deadline = 0.0 if asked > n_questions else clock.deadline
        return ask(clock)

    ask = Clock.is_over
    with monkeypatch.context() as patch, joblib.parallel_config("threading"):
        patch.setattr(Clock, "is_over", is_over)
        first = budgeted(1000.0, search=search, n_jobs=2)
    assert first.budget_record_ is not None
    assert any(cut is not None for cut in first.budget_record_["cuts"].values())
    again = budgeted(first.budget_record_, search=search)
    assert_equal(again, first)
    assert again.budget_record_ == first.budget_record_


def test_a_budget_is_used_once(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    steps.deadly = {8, 16}
    for _ in list(steps.deadly):
        with pytest.raises(Dead):
            budgeted(2.0, tmp_path, max_epochs=100)
    plan = checkpoints.read_part(tmp_path / "plan.safetensors")[2]
    found = budgeted(2.0, tmp_path, max_epochs=100)
    assert found.budget_record_ is not None
    assert found.budget_record_["plan"] == plan
    assert_equal(budgeted(found.budget_record_, max_epochs=100), found)
    time.sleep(2.0)
    assert_equal(budgeted(2.0, tmp_path, max_epochs=100), found)


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="is no record of a fit. Give seconds, or the budget_record_"):
        model(time_budget={"seconds": 3.0}).fit(X, y)
    assert fitted().budget_record_ is None


class Interrupted:
    """Ctrl-C in the final training."""

    def __call__(self, progress: FitProgress) -> bool:
        if progress.stage == "training":
            raise KeyboardInterrupt
        return False


class StopAfter:
    """Ends a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __call__(self, progress: FitProgress) -> bool:
        return progress.stage == self.stage


def test_after_an_interruption_the_fit_goes_on(tmp_path: Path, every_step: None) -> None:
    with pytest.warns(UserWarning, match="fit was interrupted; the model is the best network so far"):
        model(tmp_path, callback=Interrupted()).fit(X, y)
    assert not skequinas.resume(tmp_path).is_finished
    assert_equal(model(tmp_path).fit(X, y), fitted())


@pytest.mark.parametrize("stage", ["search", "training"])
def test_what_a_callback_ended_goes_on_without_it(tmp_path: Path, every_step: None, stage: str) -> None:
    stopped = model(tmp_path, callback=StopAfter(stage)).fit(X, y)
    assert not skequinas.resume(tmp_path).is_finished
    assert_equal(model(tmp_path, callback=StopAfter(stage)).fit(X, y), stopped)
    assert_equal(model(tmp_path).fit(X, y), fitted())


@pytest.mark.parametrize(
    "part", ["plan", *(pytest.param(part, marks=pytest.mark.exhaustive) for part in ("clock", "final", "candidate-0"))]
)
def test_a_budget_whose_files_are_damaged(
    tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    steps = Steps(monkeypatch, tmp_path)
    steps.deadly = {5}
    own: dict[str, Any] = {"search": EvolutionarySearch(guided=False, n_generations=1), "max_epochs": 9}
    with pytest.raises(Dead):
        budgeted(60.0, tmp_path, **own)
    assert skequinas.resume(tmp_path).in_training == "the final model"
    (tmp_path / f"{part}.safetensors").write_bytes(b"")
    found = budgeted(60.0, tmp_path, **own)
    assert_equal(budgeted(found.budget_record_, **own), found)


def test_a_search_that_is_over_stays_so(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"search": EvolutionarySearch(guided=False, n_generations=2), "max_epochs": 9}
    steps, asked, ask, begin = Steps(monkeypatch, tmp_path), 0, Clock.is_over, Monitor.begin

    def is_over(clock: Clock) -> bool:
        nonlocal asked
        asked += 1
        clock.deadline = 0.0 if 20 < asked < 1000 else clock.deadline
        return ask(clock)

    def begun(monitor: Monitor, stage: str, *known: Any) -> None:
        nonlocal asked
        asked = 1000 if stage == "final" else asked
        begin(monitor, stage, *known)

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "is_over", is_over)
        patch.setattr(Monitor, "begin", begun)
        steps.deadly = {5}
        with pytest.raises(Dead):
            budgeted(60.0, tmp_path, **own)
    before = skequinas.resume(tmp_path)
    assert before.in_training == "the final model"
    found = budgeted(60.0, tmp_path, **own)
    assert skequinas.resume(tmp_path).n_candidates == before.n_candidates
    assert_equal(budgeted(found.budget_record_, **own), found)


def test_mini_batches_stay_halved(tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"search": EvolutionarySearch(guided=False, n_generations=1), "max_epochs": 1}
    expected = fitted(batch_size=16, **own)
    take, steps = DataPart.batch, Steps(monkeypatch, tmp_path)

    def batch(part: DataPart, rows: torch.Tensor) -> Any:
        if torch.is_grad_enabled() and len(rows) > 18:
            raise MemoryError
        return take(part, rows)

    steps.deadly = {2, 5}
    with monkeypatch.context() as patch:
        patch.setattr(DataPart, "batch", batch)
        for _ in list(steps.deadly):
            with pytest.raises(Dead), pytest.warns(UserWarning, match="Memory did not suffice"):
                model(tmp_path, batch_size=32, **own).fit(X, y)
    assert skequinas.resume(tmp_path).in_training == "the final model"
    with pytest.warns(UserWarning, match="trained with 16"):
        found = model(tmp_path, batch_size=32, **own).fit(X, y)
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))


def test_mini_batches_are_halved_while_a_budget_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    take = DataPart.batch

    def batch(part: DataPart, rows: torch.Tensor) -> Any:
        if torch.is_grad_enabled() and len(rows) > 18:
            raise MemoryError
        return take(part, rows)

    monkeypatch.setattr(DataPart, "batch", batch)
    with pytest.warns(UserWarning, match="batches of 32 images: the network is trained with 16"):
        found = model(None, "none", batch_size=32, max_epochs=1, time_budget=60.0).fit(X, y)
    monkeypatch.undo()
    again = model(None, "none", batch_size=32, max_epochs=1, time_budget=found.budget_record_).fit(X, y)
    assert_equal(again, found)


def test_a_random_state_goes_on_with_its_seed(tmp_path: Path) -> None:
    first = model(tmp_path, "none", random_state=np.random.RandomState(3)).fit(X, y)
    assert_equal(skequinas.resume(tmp_path).estimator.fit(X, y), first)


def test_what_was_being_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef").write_bytes(b"half a file")
    (tmp_path / ".own").write_bytes(b"")
    model(tmp_path, "none").fit(X, y)
    assert {path.name for path in tmp_path.glob(".*")} == {".own"}
