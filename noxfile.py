#!/usr/bin/env -S uv run
# /// script
# dependencies = ["nox"]
# ///
"""Everyday tasks: ``nox`` runs lint, types and tests, ``nox -l`` lists all. CI is ``.ci/run``, which needs no nox."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".[test]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, or some of them: ``nox -s tests -- tests/nn``."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", "-m", "", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")


@nox.session(default=False)
def escnn(session: nox.Session) -> None:
    """Test the bridge to escnn, which needs a Fortran compiler to be installed."""
    session.install("-e", ".[escnn]", "pytest>=9", "pytest-xdist", "hypothesis")
    session.run("pytest", "-n", "auto", "tests/interop")


@nox.session(default=False)
def dask(session: nox.Session) -> None:
    """Test on a Dask cluster of two processes."""
    session.install("-e", ".[test,distributed]")
    session.run("pytest", "tests/interop/test_dask.py", "tests/interop/test_torchrun.py")


@nox.session(default=False)
def oldest(session: nox.Session) -> None:
    """Test with the oldest scikit-learn that is supported."""
    session.install("-e", ".[test]", "scikit-learn==1.6.*")
    session.run("pytest", "-n", "auto", "-m", "", "-o", "strict_parametrization_ids=false", "tests/estimators")


@nox.session(default=False)
def review(session: nox.Session) -> None:
    """Compare the repository with the guidelines of Scientific Python."""
    session.install("sp-repo-review[cli]")
    session.run("sp-repo-review", ".")


if __name__ == "__main__":
    nox.main()
