"""Laws of the one table that constructors, constraints and docstrings are made from."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.estimators.parameters import ATTRIBUTES, ClassifierParameters, Parameters

ESTIMATORS = [EquivariantNASClassifier, EquivariantNASRegressor]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_signature_constraints_and_documentation_name_the_same_parameters(estimator: type) -> None:
    names = set(inspect.signature(estimator).parameters)
    documented = re.findall(r"^(\w+) : .*default=", inspect.getdoc(estimator) or "", re.MULTILINE)
    assert names == set(estimator._parameter_constraints) == set(documented) == set(estimator().get_params())
    assert len(documented) == len(names)


def test_the_classifier_has_two_parameters_more() -> None:
    names = [{row.name for row in fields(table)} for table in (ClassifierParameters, Parameters)]
    assert names[0] - names[1] == {"class_weight", "label_smoothing"}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_first_two_parameters_alone_may_be_given_by_place(estimator: type) -> None:
    kinds = {p.name: p.kind for p in inspect.signature(estimator).parameters.values()}
    assert [n for n, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == ["group", "search"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_defaults_are_documented_as_they_are(estimator: type) -> None:
    doc = inspect.getdoc(estimator) or ""
    for p in inspect.signature(estimator).parameters.values():
        default = f'"{p.default}"' if isinstance(p.default, str) else repr(p.default)
        assert re.search(rf"^{p.name} : .*, default={re.escape(default)}$", doc, re.MULTILINE), p.name
    assert ATTRIBUTES in doc
    assert "{" + "parameters}" not in doc


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_diagram_links_to_the_page_of_the_class(estimator: type) -> None:
    assert estimator()._get_doc_link().endswith(f"/skequinas.{estimator.__name__}.html")
