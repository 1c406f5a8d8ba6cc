"""Applicability of the participation correction: on or off for a strategy, and the reason."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    FedYogi,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import CorrectionSettled
from lowcarb_scheduler.flower.compat import PARTS, adds_noise
from lowcarb_scheduler.flower.correction.records import Layout
from lowcarb_scheduler.flower.grid import layers

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.settings import Settings

logger = logging.getLogger("flwr")

Mode = Literal["off", "location", "node"]
_SETTING: Final = "lowcarb-participation-correction"
_ROBUST: Final = (MultiKrum, Bulyan, FedMedian, FedTrimmedAvg)  # Krum is a MultiKrum
_TREES: Final = (FedXgbBagging, FedXgbCyclic)
_MEANS: Final = (Strategy, FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad)  # which see no reply but the mean
_ADAPTIVE: Final = (FedAdam, FedYogi, FedAdagrad)
_MOST_MOMENTUM: Final = 0.5  # of a server that does not need a tighter rule
TIGHT_BALANCE: Final = 0.2  # rounds of clients; see docs/explanation/accuracy.md
_MIXIN: Final = "lowcarb_scheduler.flower.strategy"  # passes replies on


class Applicability(NamedTuple):
    """Mode of the correction in a run.

    Parameters
    ----------
    mode : {"off", "location", "node"}
        One memory a location, one a node, or none.
    reason : str
        The reason why it is off, or what speaks against it where it was asked for; may be empty.
    """

    mode: Mode
    reason: str = ""


def settle(
    settings: Settings, kept: tuple[object, ArrayRecord | None] | None, *, has_source: bool
) -> Applicability:
    """Settle whether a run is corrected, before its first plan.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    kept : (Strategy, ArrayRecord or None) or None
        Strategy and its initial arrays; None for one of Flower's old API.
    has_source : bool
        Whether the run has a source of carbon intensity.

    Raises
    ------
    InputError
        If the correction is asked for where it breaks the guarantee of differential privacy.
    """
    asked = settings.participation_correction
    if asked == "off":
        return Applicability("off", "it is switched off by the setting")
    if kept is None:
        return Applicability("off", "strategies of Flower's old API are not corrected")
    strategy, arrays = kept
    if any(map(adds_noise, layers(strategy))):
        reason = "it uses updates of single clients again, which the privacy accounting does not cover"
        if asked != "auto":
            problem = f"{asked} does not go with server-side differential privacy: {reason}"
            raise InputError(_SETTING, problem, "set it to auto or off")
        return Applicability("off", reason)
    if arrays is not None and not Layout.of(arrays).names:
        return Applicability("off", "the model has no arrays of floats")
    if any(isinstance(layer, _TREES) for layer in layers(strategy)):
        return Applicability("off", "boosted trees are no arrays that can be averaged")
    reason = _against(strategy)
    if asked == "auto" and (reason or not has_source):
        return Applicability(
            "off", reason or "without a source of carbon intensity clients are drawn at random"
        )
    return Applicability("location" if asked == "auto" else asked, reason)


def settle_balance(settings: Settings, strategy: object) -> float | str:
    """Return the rule of balance of a run, which ``auto`` makes tight where steps depend on those before.

    An adaptive server scales each step by those before, and one with momentum repeats them, so that a place
    which comes in one stretch moves it further than the correction makes up for.
    """
    if settings.balance != "auto" or not any(map(_remembers_steps, layers(strategy))):
        return settings.balance
    logger.info(
        "lowcarb: balance is %s: an adaptive server, or one with momentum, needs updates from all locations",
        TIGHT_BALANCE,
    )
    return TIGHT_BALANCE


def _remembers_steps(layer: object) -> bool:
    return isinstance(layer, _ADAPTIVE) or (
        isinstance(layer, FedAvgM) and layer.server_momentum > _MOST_MOMENTUM
    )


def announce(settled: Applicability, ledger: Ledger) -> None:
    """Log whether a run is corrected, and what speaks against it; enter it in the ledger."""
    mode, reason = settled
    ledger.append(CorrectionSettled(mode=mode, reason=reason or None))
    state = "off" if mode == "off" else f"on, with one memory per {mode}"
    line = f"lowcarb: participation correction is {state}" + (f": {reason}" if reason else "")
    # Asked for against a reason: a warning, as of anything that may harm the model.
    logger.log(logging.WARNING if reason and mode != "off" else logging.INFO, "%s", line)


def _against(strategy: object) -> str:
    """Return the reason against correcting a strategy, empty without one."""
    innermost = [*layers(strategy)][-1]
    name = type(innermost).__name__
    if isinstance(innermost, _ROBUST):
        return "a strategy that is robust against single replies would keep them in the memory"
    if isinstance(innermost, QFedAvg):
        return "QFedAvg weighs replies by their loss, not by their examples"
    if not isinstance(innermost, FedAvg):
        return f"{name} is no FedAvg, so its weights of replies are unknown"
    return ""


def is_plain_mean(strategy: Any) -> bool:
    """Return whether a strategy uses replies only through their weighted mean.

    Then a shift of one reply moves the mean as a shift of all of them does, for a fraction of the work.
    """
    if not isinstance(strategy, FedAvg) or PARTS.metrics_mean is None:
        return False
    for cls in type(strategy).__mro__:
        is_own = {"aggregate_train", "_check_and_log_replies"} & set(vars(cls))
        if is_own and cls not in _MEANS and cls.__module__ != _MIXIN:
            return False
    return strategy.train_metrics_aggr_fn is PARTS.metrics_mean
