"""The methods a study compares, by name. Each takes a problem and its settings and gives a registration result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..geometry.pose import Pose
from ..registration import starts
from ..registration.comparison.first_order import FirstOrder, register_first_order
from ..registration.descent import PLAN
from ..registration.register import Registrar, register

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage
    from ..registration.result import RegistrationResult


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is given.

    Attributes:
        xray: the image with the geometry it is told.
        registrar: the CT it is told, made ready.
        start: a pose to start from.
        nominal: the pose the operator set: the middle of the range.
        rotation, translation: half-ranges of the poses about it, degrees and mm.
        view: the view's name, or None for real X-rays.
        model: job folder of the network, where the method has one.
    """

    xray: XrayImage
    registrar: Registrar
    start: Pose
    nominal: Pose
    rotation: tuple[float, float, float]
    translation: tuple[float, float, float]
    view: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Method:
    """A method: how it runs, which settings it takes, whether the start matters to it, whether it needs a network."""

    run: Callable[[Problem, dict[str, Any]], RegistrationResult]
    about: str
    settings: tuple[str, ...] = ()
    needs_start: bool = False
    needs_model: bool = False

    def check(self, name: str, settings: dict[str, Any]) -> None:
        """Raises InputError for a setting it does not take."""
        known = (*self.settings, *(NETWORK_SETTINGS if self.needs_model else ()))
        for key in settings:
            if key not in known:
                raise InputError(f"The method {name} takes no {key!r}: use {', '.join(known) or 'no settings'}.")
        if self.needs_model and not {"models", "preset"} & set(settings):
            raise InputError(
                f"The method {name} needs a network: give models = {{CT = FOLDER}}, or a preset to train one with."
            )
        if self.run is _first_order:
            FirstOrder(**settings)


# `models`: CT -> job folder. Or `preset` (and changes to it): the study trains one a CT and view first.
NETWORK_SETTINGS = ("models", "preset", "seconds", "loss", "similarity")


def _ours(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    if "pixels" in settings:
        plan = [replace(level, pixels=min(level.pixels, int(settings["pixels"]))) for level in PLAN]
        plan = [replace(level, patch=min(level.patch, level.pixels)) for level in plan]
        registrar = problem.registrar
        candidates = starts.spread(problem.start.ras_to_camera, registrar.center, *registrar.spread())
        return registrar.register([problem.xray], candidates, plan=plan)
    return register(problem.registrar.ct, problem.xray, problem.start, registrar=problem.registrar)


def _single(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    """Our solver from the start alone, without looking around it: what a first-order method is given, too."""
    return problem.registrar.register([problem.xray], problem.start.ras_to_camera[None])


def _no_network(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    return register(problem.registrar.ct, problem.xray, problem.nominal, registrar=problem.registrar)


def _search(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    registrar = problem.registrar
    if problem.view is None:
        candidates = starts.search(
            problem.nominal.ras_to_camera, registrar.center, 192, problem.rotation, problem.translation
        )
        return registrar.register([problem.xray], candidates, start="search", nominal=problem.nominal)
    return register(
        registrar.ct,
        problem.xray,
        "search",
        view=problem.view,
        rotation=problem.rotation,
        translation=problem.translation,
        registrar=registrar,
    )


def _with_network(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    model = _model(problem)
    return register(problem.registrar.ct, problem.xray, model, registrar=problem.registrar)


def _network(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    return register_first_order(
        problem.registrar, problem.xray, _model(problem).predict(problem.xray), FirstOrder(pixels=(64,), iterations=1)
    )


def _first_order(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    return register_first_order(problem.registrar, problem.xray, problem.start, FirstOrder(**settings))


def _paper(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    """DiffPose's test-time optimisation from its network's guess."""
    how = FirstOrder(
        **{
            "pixels": (256,),
            "iterations": 500,
            "rate": 7.5,
            "patience": 500,
            **{key: value for key, value in settings.items() if key in FIRST_ORDER},
        }
    )
    return register_first_order(problem.registrar, problem.xray, _model(problem).predict(problem.xray), how)


def _nanodrr(problem: Problem, settings: dict[str, Any]) -> RegistrationResult:
    from ..rendering.torch_nanodrr import nanodrr_projector

    how = FirstOrder(**{"pixels": (64, 128), **settings})
    return register_first_order(problem.registrar, problem.xray, problem.start, how, projector=nanodrr_projector)


@lru_cache(maxsize=4)
def _loaded(folder: str) -> Any:
    from ..pretraining.model import PoseModel

    return PoseModel.load(folder)


def _model(problem: Problem) -> Any:
    if problem.model is None:
        raise InputError("There is no network for this CT: name its job folder under the method's models.")
    return _loaded(problem.model)


FIRST_ORDER = tuple(f.name for f in fields(FirstOrder))
METHODS: dict[str, Method] = {
    "ours": Method(_ours, "our solver, from the start and 24 poses around it", ("pixels",), needs_start=True),
    "ours-single": Method(_single, "our solver, from the start alone", needs_start=True),
    "ours+network": Method(_with_network, "our solver, from a network's guesses", needs_model=True),
    "search": Method(_search, "our solver, from 192 poses over the whole range: no start, no network"),
    "no-network": Method(_no_network, "our solver, from the pose the operator set"),
    "network": Method(_network, "a network's guess alone", needs_model=True),
    "first-order": Method(_first_order, "Adam on an image score, from the start alone", FIRST_ORDER, needs_start=True),
    "paper": Method(_paper, "DiffPose: its network, then Adam", FIRST_ORDER, needs_model=True),
    "nanodrr": Method(_nanodrr, "Adam through nanodrr's renderer, from the start", FIRST_ORDER, needs_start=True),
}
