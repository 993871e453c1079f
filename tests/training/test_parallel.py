"""Laws of trainings in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn

from skequinas import EquivariantNASClassifier, data_parallel
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork
from skequinas.runtime.parallel import Processes, in_all
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train
from skequinas.training.augmentation import Moves
from skequinas.training.residuals import ResidualSettings

pytestmark = pytest.mark.usefixtures("one_thread")

C4 = PointGroup.from_name("C4")
START = Architecture(C4, 8, 1, 3, (2, 3), (3, 3), (False, True), hidden=5)


def _alone(work: Callable[[Path], Any], folder: Path, rank: int, n: int) -> None:
    store = dist.FileStore(str(folder / "store"), n)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=timedelta(seconds=60))
    with data_parallel():
        found = work(folder)
    torch.save(found, folder / f"found {rank}")
    dist.barrier()  # none may go while another is still connecting to it
    dist.destroy_process_group()


def in_processes(work: Callable[[Path], Any], folder: Path, n: int = 2) -> list[Any]:
    """What a function gives in each of several processes that train together."""
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_alone, args=(work, folder, rank, n)) for rank in range(n)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * n
    return [torch.load(folder / f"found {rank}", weights_only=False) for rank in range(n)]


def data() -> DataPart:
    X, y = load_digits(n_class=3, return_X_y=True)
    images = torch.from_numpy(X[:99].reshape(-1, 1, 8, 8) / 16).float()
    weights = torch.linspace(0.5, 1.5, 99)
    return DataPart(images, torch.from_numpy(y[:99]), nn.Identity(), CLASSIFICATION, weights)


def penalty(network: nn.Module) -> torch.Tensor:
    return 0.01 * torch.stack([p.square().sum() for p in network.parameters()]).sum()


CASES: dict[str, Any] = {
    "muon": {},
    "sgd": {"training": {"optimizer": "sgd"}},
    "moved": {"moves": True},
    "mixed": {
        "start": START.with_constraints((C4.subgroups,) * 3),
        "alphas": True,
        "training": {"optimizer": "sgd"},
    },
    "adaptive": {
        "start": replace(START.with_constraints(((C4.whole, C4.trivial),) * 3), mixing="residual"),
        "training": {"optimizer": "sgd", "residuals": ResidualSettings(rate=0.1)},
    },
    "pathway": {
        "start": replace(START.with_constraints(((C4.whole, C4.trivial),) * 3), mixing="pathway"),
        "training": {"optimizer": "sgd", "residuals": ResidualSettings(rate=0.0, residual_decay=0.1)},
    },
    "relaxed": {"training": {"optimizer": "sgd", "residuals": ResidualSettings(relaxation=0.3)}},
    "validated": {"validation": True},
    "penalty": {"objective": replace(CLASSIFICATION, penalty=penalty)},
    "small": {"training": {"batch_size": 3}},
}


def trained(case: str) -> tuple[torch.Tensor, list[dict[str, float]]]:
    options = CASES[case]
    network = EquivariantNetwork(options.get("start", START), torch.Generator().manual_seed(0))
    part = replace(data(), objective=options.get("objective", CLASSIFICATION))
    moves = Moves(shift=1, elements=C4.whole).start(0) if options.get("moves") else None
    settings = TrainingSettings(**{"optimizer": "muon", "batch_size": 25} | options.get("training", {}))
    alphas = part if options.get("alphas") else None
    number = iter(range(1, 99))
    validation = {"validation": data(), "patience": 1} if options.get("validation") else {}
    log = train(
        network, part, settings, 3, seed=0, augmentation=moves, alpha_data=alphas,
        on_step=lambda: next(number) == 7, **validation,
    )  # fmt: skip
    with torch.no_grad():
        return network(part.images), [{k: v for k, v in row.items() if k != "seconds"} for row in log]


@pytest.mark.parametrize(
    ("case", "n"),
    [
        *((case, 2) for case in CASES),
        *(pytest.param(*c, marks=pytest.mark.exhaustive) for c in (("muon", 3), ("small", 4))),
    ],
)
def test_processes_train_what_one_trains(case: str, n: int, tmp_path: Path) -> None:
    expected, log = trained(case)
    for found, own in in_processes(lambda _: trained(case), tmp_path, n):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert [row["epoch"] for row in own] == [row["epoch"] for row in log]
        np.testing.assert_allclose([row["loss"] for row in own], [row["loss"] for row in log], rtol=1e-5)


X, y = (values[:200] for values in load_digits(n_class=3, return_X_y=True))


def fitted(**own: Any) -> EquivariantNASClassifier:
    settings = {"group": "C4", "search": "evolutionary", "max_epochs": 1, "random_state": 0} | own
    return EquivariantNASClassifier(**settings).fit(X, y)


def test_a_fit_is_that_of_one_process(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "early_stopping": True, "search": "differentiable"}
    expected = fitted(**settings)
    found = in_processes(lambda _: fitted(**settings), tmp_path)
    for model in found:
        assert model.architecture_ == expected.architecture_
        assert model.learned_symmetry_.group == expected.learned_symmetry_.group
        np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), atol=1e-3)
    np.testing.assert_array_equal(*(model.predict_proba(X) for model in found))


@pytest.mark.parametrize("seeds", [(None, None), (0, 1)])
def test_all_processes_have_the_seed_of_the_first(seeds: tuple[int | None, ...], tmp_path: Path) -> None:
    one, other = in_processes(lambda _: fitted(random_state=seeds[dist.get_rank()], search="none"), tmp_path)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def refusal(work: Callable[[int], Any]) -> Callable[[Path], str]:
    """What a fit says that is refused, which is given the number of its process."""

    def tried(_: Path) -> str:
        with pytest.raises(ValueError, match="data_parallel") as caught:
            work(dist.get_rank())
        return str(caught.value)

    return tried


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda rank: fitted(time_budget=10.0), "time_budget=10.0 cannot be used with data_parallel: the clocks"),
        (lambda rank: fitted(checkpoint="folder"), "checkpoint='folder' cannot be used"),
        (lambda rank: fitted(n_jobs=2), "n_jobs=2 cannot be used"),
        (lambda rank: fitted(max_epochs=1 + rank), "in process 1 max_epochs is 2, in process 0 1"),
        (lambda rank: EquivariantNASClassifier("C4", "none").fit(X[rank:], y[rank:]), "in process 1 X differs"),
    ],
    ids=["budget", "checkpoint", "jobs", "parameters", "data"],
)
def test_what_processes_would_do_differently_is_refused(work: Callable[[int], Any], words: str, tmp_path: Path) -> None:
    assert all(words in found for found in in_processes(refusal(work), tmp_path))


def test_one_process_that_asks_to_stop_stops_all_of_them(tmp_path: Path) -> None:
    def work(_: Path) -> int:
        callback = (lambda progress: progress.epoch == 2) if dist.get_rank() else None
        return len(fitted(search="none", max_epochs=5, callback=callback).history_["loss"])

    assert in_processes(work, tmp_path) == [2, 2]


def test_an_error_before_the_training_is_raised_in_all_of_them(tmp_path: Path) -> None:
    def work(_: Path) -> str:
        images = X.copy()
        images[0, 0] = np.nan if dist.get_rank() else 0.0
        with pytest.raises((ValueError, RuntimeError)) as caught:
            EquivariantNASClassifier("C4", "none").fit(images, y)
        return str(caught.value)

    one, other = in_processes(work, tmp_path)
    assert "Process 1 of data_parallel cannot fit: ValueError: Input X contains NaN" in one
    assert "Input X contains NaN" in other


def short(part: DataPart, rows: torch.Tensor) -> None:
    raise MemoryError("none is left")


def test_memory_that_runs_out_is_an_error_and_no_smaller_mini_batch(tmp_path: Path) -> None:
    def work(_: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DataPart, "batch", short)
            with pytest.raises(MemoryError, match="none is left"):
                fitted(search="none")

    in_processes(work, tmp_path)


def test_warm_starts_of_different_models_are_refused(tmp_path: Path) -> None:
    def work(_: Path) -> str:
        model = EquivariantNASClassifier("C4", "none", max_epochs=1 + dist.get_rank(), random_state=0, warm_start=True)
        with ThreadPoolExecutor(1) as elsewhere:  # a thread outside of data_parallel, where each fits alone
            elsewhere.submit(model.fit, X, y).result()
        with pytest.raises(ValueError, match="the earlier model differs") as caught:
            model.set_params(max_epochs=1).fit(X, y)
        return str(caught.value)

    assert len(set(in_processes(work, tmp_path))) == 1


def test_threads_of_joblib_are_refused(tmp_path: Path) -> None:
    def work(_: Path) -> str:
        with joblib.parallel_config("threading", n_jobs=2), pytest.raises(ValueError, match="n_jobs=2") as caught:
            fitted()
        return str(caught.value)

    in_processes(work, tmp_path)


def test_it_takes_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"), data_parallel():
        pass
    assert in_all(3) == [3]


@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("n_rows", range(1, 12))
def test_every_row_is_of_one_process(n: int, n_rows: int) -> None:
    all_of_them = [Processes(rank, n) for rank in range(n)]
    rows = [list(range(n_rows))[p.own(n_rows)] for p in all_of_them]
    assert sum(p.share(n_rows) for p in all_of_them) == pytest.approx(1)
    assert sum(rows, []) == list(range(n_rows))
    assert [p.share(n_rows) for p in all_of_them] == [pytest.approx(len(own) / n_rows) for own in rows]
