"""Laws of fits in other threads and processes: the same results, no more threads than cores, and no deadlock."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skequinas import DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch, RandomSearch
from skequinas.runtime import process
from skequinas.runtime.process import fitting_state, full_precision
from skequinas.search import Search

X, y = load_digits(n_class=3, return_X_y=True)
X, y = X[:120], y[:120]
SMALL = {"search": "none", "width": 8, "max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}
two_cores = pytest.mark.skipif(joblib.cpu_count() < 2, reason="needs two cores")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def classifier(**parameters: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier(**{**SMALL, **parameters})


def threads_of_a_fit(n: int = 0) -> tuple[int, int, int]:
    """The threads of torch before, while and after a fit."""
    before, within = torch.get_num_threads(), []
    classifier(callback=lambda _: within.append(torch.get_num_threads()) and None).fit(X, y)
    return before, within[0], torch.get_num_threads()


def probabilities(seed: int) -> Any:
    return classifier(random_state=seed, search="differentiable").fit(X, y).predict_proba(X)


@pytest.mark.parametrize(
    "backend", ["loky", *(pytest.param(b, marks=pytest.mark.exhaustive) for b in ("threading", "multiprocessing"))]
)
def test_a_fit_in_a_worker_gives_the_same_model(backend: str, one_thread: None) -> None:
    expected = [probabilities(seed) for seed in range(3)]
    with parallel_config(backend=backend, n_jobs=2):
        found = Parallel()(delayed(probabilities)(seed) for seed in range(3))
    np.testing.assert_array_equal(found, expected)


@two_cores
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_workers_do_not_oversubscribe_the_cores(backend: str) -> None:
    torch.set_num_threads(joblib.cpu_count())
    n_jobs = joblib.cpu_count()
    with parallel_config(backend=backend, n_jobs=n_jobs):
        counts = Parallel()(delayed(threads_of_a_fit)(i) for i in range(2 * n_jobs))
    assert {within for _, within, _ in counts} == {1}
    assert all(before == after for before, _, after in counts)
    assert torch.get_num_threads() == joblib.cpu_count()


@two_cores
def test_a_fit_alone_uses_the_threads_that_torch_is_set_to() -> None:
    before = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        assert threads_of_a_fit() == (n, n, n)
    torch.set_num_threads(before)


def test_a_grid_search_may_be_nested(one_thread: None) -> None:
    def search() -> Any:
        grid = GridSearchCV(classifier(), {"group": ["C1", "D4"]}, cv=2, n_jobs=2)
        return grid.fit(X, y).cv_results_["mean_test_score"]

    expected = search()
    for backend in ("loky", "threading"):
        with parallel_config(backend=backend, n_jobs=2):
            for scores in Parallel()(delayed(search)() for _ in range(2)):
                np.testing.assert_array_equal(scores, expected)


FORKED = """
import multiprocessing, sys
import numpy as np, torch
sys.path.insert(0, {tests!r})
from test_process import X, classifier, y

def work(model, queue):
    import skequinas

    skequinas.save(model, {path!r})
    again = skequinas.load({path!r})
    again.to_torch()
    queue.put((again.predict_proba(X), model.fit(X, y).predict_proba(X)))

torch.set_num_threads(2)
images = np.repeat(X, 8, axis=0)
model = classifier(batch_size=256).fit(images, np.repeat(y, 8))  # torch's threads are at work in this process
torch.mm(torch.ones(600, 600), torch.ones(600, 600))
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=work, args=(model, queue))
child.start()
predicted, fitted = queue.get(timeout=60)
child.join(timeout=10)
assert child.exitcode == 0
np.testing.assert_allclose(predicted, model.predict_proba(X), atol=1e-5)
print("done")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_fork_after_torch_has_used_its_threads_does_not_hang(tmp_path: Path) -> None:
    script = tmp_path / "forked.py"
    script.write_text(FORKED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "model")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "done", done.stderr


IMPORTED_IN_A_FORK = """
import multiprocessing
import torch

def work(queue):
    from sklearn.datasets import load_digits
    from skequinas import EquivariantNASClassifier

    X, y = load_digits(return_X_y=True)
    queue.put(EquivariantNASClassifier(search="none", max_epochs=1).fit(X, y).predict(X).shape)

torch.set_num_threads(2)
torch.mm(torch.ones(2000, 2000), torch.ones(2000, 2000))
context = multiprocessing.get_context("fork")
queue = context.Queue()
context.Process(target=work, args=(queue,), daemon=True).start()
print(queue.get(timeout=60))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_the_package_may_be_imported_in_a_fork_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_IN_A_FORK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "(1797,)", done.stderr


def test_threads_of_the_user_s_own_may_fit_at_once(one_thread: None) -> None:
    expected = [probabilities(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probabilities, range(4)))
    np.testing.assert_array_equal(found, expected)


# --- candidates in parallel ---

PARALLEL: dict[str, Search] = {
    "evolutionary": EvolutionarySearch(2, probe_epochs=20, epochs_per_generation=0.5, call_level=1.0, level=0.5),
    "all moves": EvolutionarySearch(1, guided=False, warmup_epochs=0.5, epochs_per_generation=0.5),
    "random": RandomSearch(1, warmup_epochs=0.5, epochs_per_generation=0.5),
    "differentiable": DifferentiableSearch(mixture_epochs=20, epochs_per_generation=0.5, level=0.5),
}


def result(search: Search, n_jobs: int | None, **parameters: Any) -> tuple[Any, Any]:
    model = classifier(search=search, n_jobs=n_jobs, **parameters).fit(X, y)
    return model.predict_proba(X), model.search_results_["validation_loss"]


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", PARALLEL)
def test_candidates_trained_in_parallel_are_those_trained_one_after_the_other(
    name: str, backend: str, one_thread: None
) -> None:
    search = PARALLEL[name]
    expected = result(search, None)
    assert len(expected[1]) > 2
    with parallel_config(backend=backend):
        for n_jobs in (1, 2, -1):
            for found, wanted in zip(result(search, n_jobs), expected, strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=f"n_jobs={n_jobs}")


@pytest.mark.exhaustive
@two_cores
def test_the_number_of_jobs_changes_nothing_however_many_threads_there_are() -> None:
    torch.set_num_threads(2)
    one, two = (result(PARALLEL["all moves"], n_jobs) for n_jobs in (1, 2))
    assert torch.get_num_threads() == 2
    for found, wanted in zip(two, one, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_candidates_with_weights_in_parallel(one_thread: None) -> None:
    weights = np.linspace(0.5, 2.0, len(X))
    with parallel_config(backend="threading"):
        one, two = (
            classifier(search=PARALLEL["random"], n_jobs=n_jobs).fit(X, y, sample_weight=weights).predict_proba(X)
            for n_jobs in (None, 2)
        )
    np.testing.assert_array_equal(one, two)


@pytest.mark.filterwarnings("ignore:time_budget=2 seconds")
def test_candidates_in_parallel_keep_to_the_budget() -> None:
    search = EvolutionarySearch(5, guided=False, warmup_epochs=0.5, epochs_per_generation=500)
    started = time.perf_counter()
    with parallel_config(backend="threading"):
        model = classifier(search=search, n_jobs=2, time_budget=2.0).fit(X, y)
    assert time.perf_counter() - started < 6.0
    assert len(model.search_results_["candidate"]) == 1
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("search", ["none", "random"])
def test_no_jobs_at_all_is_an_error(search: str) -> None:
    with pytest.raises(ValueError, match="'n_jobs'.* Got 0"):
        classifier(search=search, n_jobs=0).fit(X, y)


def test_a_context_of_autocast_changes_nothing_wherever_candidates_are_trained(one_thread: None) -> None:
    expected = result(PARALLEL["random"], None)
    with torch.autocast("cpu", torch.bfloat16), parallel_config(backend="threading"):
        for n_jobs in (None, 2):
            for found, wanted in zip(result(PARALLEL["random"], n_jobs), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert torch.is_autocast_enabled("cpu")


# --- memory ---


class Allocator:
    """Stands in for the C library, and notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, *values: int) -> int:
        self.calls.append(values)
        return 1

    def malloc_trim(self, *values: int) -> int:
        self.calls.append(values)
        return 1


def test_memory_is_kept_within_a_fit_and_handed_back_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator()
    monkeypatch.setattr(process, "_glibc", lambda: allocator)
    with process.kept_memory():
        within = list(allocator.calls)
        with process.kept_memory():  # a fit in a fit changes nothing
            pass
        assert allocator.calls == within
    mmap, trim = -3, -1
    assert dict(within) == {mmap: 32 * 2**20, trim: 2**31 - 1}
    assert allocator.calls[len(within) :] == [(trim, 64 * 2**20), (0,)]
    with pytest.raises(RuntimeError), process.kept_memory():
        raise RuntimeError
    assert allocator.calls[-1] == (0,)


THRESHOLDS = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_that_the_user_has_set_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert process._glibc.__wrapped__() is None


@pytest.mark.skipif(process._glibc() is None, reason="needs the allocator of glibc")
def test_kept_memory_is_not_cleared_anew() -> None:
    code = """
import resource

import torch

from skequinas.runtime.process import kept_memory


def faults(context):
    counts = []
    with context:
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            maps = [torch.ones(2_000_000) for _ in range(12)]
            del maps
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(counts[10:])[5]  # a kernel that takes idle pages back disturbs some of them


print(faults(kept_memory()))
"""
    environment = {name: value for name, value in os.environ.items() if name not in THRESHOLDS}  # Dask sets them
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    answer = run.stdout
    assert int(answer) < 100  # there are 20,000 pages in the maps of one repeat


def test_a_fit_does_not_wait_for_torch_s_compiler() -> None:
    """Its import takes two seconds, which is more than a small fit."""
    code = """
import sys

import numpy as np

from skequinas import EquivariantNASClassifier

X = np.random.default_rng(0).random((60, 64))
settings = {"learning_rate": 0.01, "max_epochs": 1, "device": "cpu", "random_state": 0}
for search, optimizer in (("evolutionary", "muon"), ("differentiable", "muon"), ("none", "adamw"), ("none", "sgd")):
    EquivariantNASClassifier("D4", search, optimizer=optimizer, **settings).fit(X, np.arange(60) % 2)
    print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"] * 4


def test_within_a_fit_cudnn_repeats_itself_and_full_precision_knows_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = torch.backends.cudnn
    before = backend.deterministic, backend.allow_tf32
    with fitting_state():
        assert backend.deterministic
        assert backend.allow_tf32 == before[1]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with full_precision():
            assert not backend.allow_tf32
        outer, inner = fitting_state(), fitting_state()  # of two threads that overlap
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        assert backend.deterministic
        inner.__exit__(None, None, None)
        assert backend.allow_tf32 == before[1]
    assert (backend.deterministic, backend.allow_tf32) == before
