"""Candidates on the machines of a Dask cluster: the same model to the bit, also where workers die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skequinas import EquivariantNASClassifier, EvolutionarySearch, FitProgress, bootstrap_symmetry

distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of Dask: workers that die, and objects that are large
]

X, y = (values[:240] for values in load_digits(n_class=4, return_X_y=True))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


def model(**own: Any) -> EquivariantNASClassifier:
    search = EvolutionarySearch(guided=False, n_generations=2)
    return EquivariantNASClassifier("C4", search, max_epochs=2, random_state=0, **own)


@pytest.fixture(scope="module")
def expected() -> np.ndarray[Any, Any]:
    return model().fit(X, y).predict_proba(X)


def test_the_model_is_the_same(cluster: Any, expected: np.ndarray[Any, Any]) -> None:
    with joblib.parallel_config("dask"):
        found = model().fit(X, y)
    np.testing.assert_array_equal(found.predict_proba(X), expected)
    assert np.bincount(found.search_results_["generation"]).max() > 2  # at the same time


class Killing:
    """Kills some workers when a generation is over."""

    def __init__(self, cluster: Any, n: int) -> None:
        self.cluster, self.n, self.killed = cluster, n, 0

    def __call__(self, progress: FitProgress) -> None:
        if progress.stage == "search" and progress.generation == 1:
            for worker in list(self.cluster.workers.values())[: self.n]:
                os.kill(worker.process.pid, signal.SIGKILL)
                self.killed += 1


@pytest.mark.parametrize("n", [1, 2])
def test_workers_may_die(cluster: Any, expected: np.ndarray[Any, Any], n: int) -> None:
    killing = Killing(cluster, n)
    with joblib.parallel_config("dask"):
        found = model(callback=killing).fit(X, y)
    assert killing.killed == n
    np.testing.assert_array_equal(found.predict_proba(X), expected)


def test_other_loops_go_there_too(cluster: Any) -> None:
    grid = GridSearchCV(model(), {"learning_rate": [0.005, 0.01]}, cv=2)
    alone = grid.fit(X, y).cv_results_["mean_test_score"]
    with joblib.parallel_config("dask"):
        np.testing.assert_array_equal(grid.fit(X, y).cv_results_["mean_test_score"], alone)
        there = bootstrap_symmetry(model(), X, y, n=2, random_state=0)
    assert there == bootstrap_symmetry(model(), X, y, n=2, random_state=0)
