"""The script of the documentation, started as users do."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import skequinas
from skequinas import EquivariantNASClassifier, data_parallel

pytest.importorskip("distributed")  # not needed: this is one of the tests of several machines, which take their time

OPTIONS = {"search": "none", "max_epochs": 1, "random_state": 0, "device": "cpu"}


def test_the_script_of_the_docstring_trains_one_model(tmp_path: Path) -> None:
    _, _, example = (inspect.getdoc(data_parallel) or "").partition("train.py``::\n")
    script = textwrap.dedent(example).replace("random_state=0", f"**{OPTIONS}")
    assert repr(OPTIONS) in script
    script += f"""
import os, skequinas
skequinas.save(model, os.path.join({str(tmp_path)!r}, os.environ["RANK"] + ".safetensors"))
torch.distributed.destroy_process_group()
"""
    (tmp_path / "train.py").write_text(script)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    here = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(skequinas.__file__).parents[1])}
    subprocess.run(run, cwd=tmp_path, env=here, check=True, timeout=300)
    X, y = load_digits(return_X_y=True)
    alone = EquivariantNASClassifier("D4", **OPTIONS).fit(X, y)
    one, other = (skequinas.load(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert alone.score(X, y) > 0.5
    assert (one.predict(X) == alone.predict(X)).mean() > 0.95
