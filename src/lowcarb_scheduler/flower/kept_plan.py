"""A plan as plain values and arrays, and back: what a checkpoint keeps of it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping


def plan_to_value(plan: Plan) -> dict[str, Any]:
    """Return a plan as a dict that :class:`~lowcarb_scheduler.flower.encoding.Encoder` takes."""
    value = {each.name: getattr(plan, each.name) for each in fields(Plan)}
    fleet = {each.name: getattr(plan.fleet, each.name) for each in fields(Fleet)}
    fleet["ids"] = np.array([*plan.fleet.ids], dtype=np.str_)  # an array of objects would be a pickle
    return {**value, "fleet": fleet}


def plan_from_value(value: Mapping[str, Any]) -> Plan:
    """Return the plan of such a dict.

    Raises
    ------
    TypeError, KeyError
        If it is none.
    """
    fleet = value["fleet"]
    kept = Fleet(**{**fleet, "ids": fleet["ids"].astype(object)})
    return Plan(**{**value, "fleet": kept})
