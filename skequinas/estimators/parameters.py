"""The parameters of the estimators, once: name, type, default, allowed values and documentation.

The constructors (by `dataclasses`), scikit-learn's ``_parameter_constraints`` and the docstrings are all made from it.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields
from numbers import Integral, Real
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.search import Search
from skequinas.training.monitor import FitProgress
from skequinas.training.settings import PRECISIONS

__all__ = ["ClassifierParameters", "Parameters", "constraints_of", "documented"]


def _parameter(default: Any, kind: str, allowed: list[Any], text: str) -> Any:
    """A row of the table: the default, its type in words, what scikit-learn is to allow, and what it means."""
    return field(default=default, metadata={"kind": kind, "allowed": allowed, "text": text})


@dataclass(eq=False, repr=False)
class Parameters:
    """What both estimators take."""

    group: str | PointGroup | Subgroup = _parameter(
        "D4",
        "str, PointGroup, Subgroup, or a group or gspace of escnn",
        [str, PointGroup, Subgroup, HasMethods("irrep")],  # the last: of escnn
        """The largest symmetry to consider. "C4" holds the four quarter turns, "D4" mirrors as well; in general, "C"
        and "D" with the number of rotations, such as "C8" for multiples of 45 degrees. "D1(90)" is the left-right
        mirror, whose axis stands upright. All subgroups are searched.""",
    )
    search: str | Search = _parameter(
        "evolutionary",
        '{"evolutionary", "differentiable", "adaptive", "residual", "penalised", "augmentation", "relaxation", '
        '"streams", "random", "random_constraints", "none"} or search object',
        [str, Search],
        """How to search; "none" keeps the whole group. An object such as ``EvolutionarySearch(n_generations=6)`` sets
        more. `skequinas.search.register_search` adds names.""",
    )
    _: KW_ONLY
    architecture: str | Architecture = _parameter(
        "auto",
        '{"auto", "plain", "paper"} or Architecture',
        [StrOptions({"auto", "plain", "paper"}), Architecture],
        """The shape of the network. "auto" suits the images: from 12x12 pixels on it has residual blocks and pools at
        once. "plain" has no shortcuts, and kernels of 5x5 pixels from 16x16 pixels on. "paper" is 8 layers of 16 and 32
        fields with kernel 5.""",
    )
    width: int | None = _parameter(
        None,
        "int or None",
        [Interval(Integral, 1, None, closed="left"), None],
        """Channels of the first layers of an "auto" architecture (it is an error with another); None lets it
        choose.""",
    )
    basis: str = _parameter(
        "auto",
        '{"auto", "pixel", "harmonic"}',
        [str],
        """What filters are made of. "pixel" is exact for quarter turns and mirrors; "harmonic", rings with waves around
        them, can turn by any angle, to a few percent on pixels. "auto" is "pixel" where that is exact.
        `skequinas.nn.register_basis` adds names.""",
    )
    coordinates: str = _parameter(
        "none",
        '{"none", "radius", "frame"}',
        [StrOptions({"none", "radius", "frame"})],
        """Maps that every network gets beside the image. "radius", the distance from the centre, keeps all symmetries:
        for images where it matters how far from the middle something is. "frame", two coordinates that do not move with
        the image, lets a constrained network tell how an image stands; so the model has no symmetry, and only
        ``search="none"`` goes with it.""",
    )
    circular_mask: bool | str = _parameter(
        "auto",
        'bool or "auto"',
        ["boolean", StrOptions({"auto"})],
        """Whether the images are cut to a disc, as their corners cannot turn by any angle. "auto" does where the group
        has other elements than quarter turns and the mirrors in between.""",
    )
    augment: str = _parameter(
        "auto",
        '{"auto", "continuous", "group", "none"}',
        [StrOptions({"auto", "none", "continuous", "group"})],
        """By what the images of the final training are moved at random, beyond the symmetry that was found. "auto"
        shifts them by a few pixels, and turns them by any angle where the model has turns by less than 180 degrees,
        each if images that the search has held out bear it: its network has seen no such moves, and is as good on
        images that are moved.
        "continuous" turns them, whatever those say, if the model is to look the same under all rotations of the group
        (and there are any), and mirrors them, if under mirrors too; with ``search="none"`` and ``group="C1"``, an
        ordinary CNN, always. "group" moves them by random elements of the symmetry that was found (with
        ``search="none"``, of the whole group) and trains the network without any constraint: what many would do instead
        of building a symmetry in. The search, which is to find out what the images look like, never moves any but
        for the ordinary network that it may try in the end (and ``search="augmentation"``, which is about that), so
        neither does a search whose own network is the model (``discretize=False``, ``final="evolved"``).""",
    )
    averaging: str = _parameter(
        "auto",
        '{"auto", "always", "none"}',
        [StrOptions({"auto", "always", "none"})],
        """The second way to a symmetric model: an ordinary network, trained on images that are moved by random elements
        of the symmetry, whose outputs are averaged over the images moved by all of them. It is exactly symmetric too,
        and takes as many times as long to predict as there are elements. "auto" lets a search that found a symmetry by
        evidence try it in the end, for as long as its first network was trained, and where it is ahead by then for as
        long as the final training will take. It is kept where the held-out loss is lower by more than the search's
        ``tolerance``, also than that of the constrained network trained likewise: with ``architecture="auto"``, from
        12x12 pixels on, and if a time budget leaves time for it. "always" takes it without a comparison (with
        ``search="none"``, for the whole group). Turns by other than multiples of 90 degrees interpolate, so such
        symmetries have the first way alone.""",
    )
    image_shape: tuple[int, ...] | None = _parameter(
        None,
        "tuple of int or None",
        ["array-like", None],
        """(height, width), with the channels first or last if there are any: at the end that holds 1 to 4, else beside
        two equal sides, else at the smaller end. None reads rows as squares of one or three (last) channels;
        rows that are none are no images, and no symmetry is looked for in them.""",
    )
    max_epochs: float | None = _parameter(
        None,
        "float or None",
        [Interval(Real, 0, None, closed="neither"), None],
        """Passes over the data in the final training, to which those of the search are in proportion. None makes it
        about 500 mini-batches of 64, between 4 and 80 epochs, at most: a search that gathers evidence trains its first
        network in parts that double its length for as long as that lowers the held-out error, up to half of that. The
        other trainings of the search are then in proportion to the length at which that ended, and the final one is
        three times as long, but no longer than those 500 mini-batches.""",
    )
    batch_size: int = _parameter(
        64, "int", [Interval(Integral, 2, None, closed="left")], "Images in a mini-batch, at least 2."
    )
    learning_rate: float = _parameter(
        0.005,
        "float",
        [Interval(Real, 0, None, closed="neither")],
        """The highest rate of the one-cycle schedule. With ``optimizer="muon"`` kernels turn by at most six times as
        much of their norm in a step.""",
    )
    optimizer: str = _parameter(
        "muon",
        '{"muon", "adamw", "sgd"}',
        [StrOptions({"muon", "adamw", "sgd"})],
        """"muon" turns the kernels of all convolutions along the polar factor of their momentum, one block for each
        representation of their symmetry, and trains all else by AdamW. "sgd" has Nesterov momentum 0.9.""",
    )
    weight_decay: float = _parameter(
        0.01,
        "float",
        [Interval(Real, 0, None, closed="left")],
        "Decoupled weight decay; kernels that Muon turns have none.",
    )
    validation_fraction: float = _parameter(
        0.2,
        "float",
        [Interval(Real, 0, 1, closed="neither")],
        "The share of the data that is held out for the search and for early stopping.",
    )
    early_stopping: bool = _parameter(
        False,
        "bool",
        ["boolean"],
        """Hold the validation part out of the final training too, stop when its loss no longer falls, and keep the best
        weights.""",
    )
    n_iter_no_change: int = _parameter(
        10,
        "int",
        [Interval(Integral, 1, None, closed="left")],
        "Epochs without a better validation loss before an early stop.",
    )
    time_budget: float | dict[str, Any] | None = _parameter(
        None,
        "float, dict or None",
        [Interval(Real, 0, None, closed="neither"), dict, None],
        """Seconds for the whole of ``fit``, checked at every mini-batch. Search and final training are shortened alike
        where they would take longer; where they would take more than twice as long, ``architecture="auto"`` is a
        network of a third of the arithmetic (unless ``width`` is given), and mini-batches may be smaller. A warning
        tells where there was no time for a search, or the model is no better than the simplest ones. What was tried
        depends on the speed of the machine; with the ``budget_record_`` of a fitted model, all is planned and cut as it
        was there, however long it takes, and the model is the same (not after a callback or Ctrl-C ended a stage).""",
    )
    warm_start: bool = _parameter(
        False,
        "bool",
        ["boolean"],
        """Another ``fit`` goes on with the search where the last one ended (it was interrupted or out of time, or may
        now have more generations), and with the network's weights where its constraints stay. What is random follows
        from the first fit's ``random_state``.""",
    )
    checkpoint: str | PathLike[str] | None = _parameter(
        None,
        "path-like or None",
        [str, PathLike, None],
        """A folder in which ``fit`` keeps what it has done: every network of the search that is trained, and longer
        trainings every few seconds. If the process is killed, the same call on the same data goes on where it was, to
        the same model, bit for bit (with a time budget in seconds, to what there is time for); once it was finished,
        nothing is trained again. A callback that ends a stage has to be there again. Other data or parameters are an
        error: each fit has a folder of its own. A folder that cannot be written to, and files that are damaged, are
        no reason to stop, and there is a warning. `skequinas.resume` shows what a folder holds.""",
    )
    callback: Callable[[FitProgress], bool | None] | None = _parameter(
        None,
        "callable or None",
        [callable, None],
        """Called with a `FitProgress` after each generation of the search and each epoch of the final training. When it
        returns a true value, the search, or the training, ends there.""",
    )
    on_interrupt: str = _parameter(
        "keep",
        '{"keep", "raise"}',
        [StrOptions({"keep", "raise"})],
        """What Ctrl-C does: "keep" ends ``fit`` with the best network so far and a warning (a second one raises);
        "raise" raises ``KeyboardInterrupt``, as loops over many fits want it.""",
    )
    device: str = _parameter(
        "auto", "str", [str], '"auto" is CUDA when available, else the CPU; or "cpu", "cuda", "cuda:1".'
    )
    precision: str = _parameter(
        "float32",
        '{"float32", "bfloat16"}',
        [StrOptions(set(PRECISIONS))],
        """"bfloat16" trains with convolutions in half the bits: faster on processors with instructions for it
        (AVX512-BF16), it may be on GPUs, slower elsewhere. On such processors constrained networks predict so too. All
        else is computed in float32: other predictions, features, evidence, and ``module_`` with what is exported.""",
    )
    n_jobs: int | None = _parameter(
        None,
        "int or None",
        [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        """How many candidates of a generation of the search are trained at the same time, in processes of joblib's, on
        a CPU; -1 is one for each core. Each has one thread then, and the result is the same whatever the number. None
        is what a surrounding ``joblib.parallel_config`` says, and else trains them one after the other with all threads
        of torch.""",
    )
    random_state: int | np.random.RandomState | None = _parameter(
        None,
        "int, RandomState instance or None",
        ["random_state"],
        "Fixes the split, the initial weights, the mini-batches and the search.",
    )
    verbose: int = _parameter(0, "int", ["verbose"], "1 shows a progress bar; 2 also logs a line for each candidate.")


@dataclass(eq=False, repr=False)
class ClassifierParameters(Parameters):
    """What the classifier takes."""

    _: KW_ONLY
    class_weight: dict[Any, float] | str | None = _parameter(
        None,
        'dict, "balanced" or None',
        [dict, StrOptions({"balanced"}), None],
        """The weight of each class, which multiplies the weights of its samples. "balanced" makes all classes count
        alike.""",
    )
    label_smoothing: float = _parameter(
        0.05,
        "float",
        [Interval(Real, 0, 1, closed="left")],
        """The share of each training label that is spread evenly over all classes, so that the network is never quite
        sure. Validation and evidence know nothing of it.""",
    )


ATTRIBUTES = """\
learned_symmetry_ : LearnedSymmetry
    The symmetry of the fitted function and of every layer, and the measured change under every element.
architecture_ : Architecture
    The chosen architecture.
network_ : EquivariantNetwork
    The constrained network; or an ordinary one that is averaged over moves in evaluation.
module_ : torch.nn.Sequential
    The same function of preprocessed images in torch alone, with batch norm folded in: a stack of layers, around which
    stands the average over moves if there is one.
preprocessing_ : torch.nn.Module
    Standardises raw images.
n_parameters_ : int
    Free parameters of the network.
augmentation_ : str
    By what the images of the final training were moved at random, in words; "nothing" where they were not.
history_ : dict of ndarray
    The final training: one entry for each epoch; its loss is that of smoothed labels and moved images. Empty where the
    search trained the model (``discretize=False``, ``final="evolved"``).
search_results_ : dict of ndarray
    One entry for each candidate of the search: constraints, parent, generation, parameters, validation score,
    seconds. Empty without a search.
search_ : Search
    The search with its last population.
budget_record_ : dict or None
    With a ``time_budget``: what was planned, and after how many steps what was cut, in plain values. Given as
    ``time_budget``, it makes the same fit again.
n_features_in_ : int
    Values in one image.
feature_names_in_ : ndarray of str
    The names of the columns, where X was a table whose columns all have strings as names.
image_shape_ : tuple of int
    How one sample is read."""
"""The fitted attributes that both estimators have."""


def constraints_of(parameters: type[Parameters]) -> dict[str, list[Any]]:
    """The table as scikit-learn's ``_parameter_constraints``."""
    return {row.name: row.metadata["allowed"] for row in fields(parameters)}


Estimator = TypeVar("Estimator", bound=type[Parameters])


def documented(estimator: Estimator) -> Estimator:
    """Write the table into a class docstring, in place of "{parameters}", and the attributes for "{attributes}"."""
    if estimator.__doc__ is not None:  # python -OO has none
        rows = []
        for row in fields(estimator):
            default = json.dumps(row.default) if isinstance(row.default, str) else repr(row.default)
            text = inspect.cleandoc(row.metadata["text"])
            rows.append(f"{row.name} : {row.metadata['kind']}, default={default}\n{textwrap.indent(text, '    ')}")
        doc = inspect.cleandoc(estimator.__doc__)
        estimator.__doc__ = doc.replace("{parameters}", "\n".join(rows)).replace("{attributes}", ATTRIBUTES)
    return estimator
