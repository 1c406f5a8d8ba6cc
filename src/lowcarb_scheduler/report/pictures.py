"""All pictures of a run, in the order of the page, and how they are written as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.chosen import choice_of_run, picture_of_choice
from lowcarb_scheduler.report.gantt import deadline_of, known_intensity
from lowcarb_scheduler.report.plots import picture_of_run, save
from lowcarb_scheduler.report.progress import picture_of_progress, progress_of
from lowcarb_scheduler.report.standing import picture_of_standing
from lowcarb_scheduler.report.turns import picture_of_turns
from lowcarb_scheduler.report.waterfall import picture_of_waterfall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from lowcarb_scheduler.report.accounts import Accounts
    from lowcarb_scheduler.report.picture import Picture

KINDS: Final = ("png", "svg")


def pictures_of_run(events: Sequence[Mapping[str, Any]], accounts: Accounts) -> tuple[Picture, ...]:
    """Return what can be drawn of a run.

    Parameters
    ----------
    events : sequence of mapping
        Its ledger.
    accounts : Accounts
        What they come to.
    """
    labels = wording.labels(*accounts.labels)
    choice = choice_of_run(events, known_intensity(events))
    found = (
        picture_of_run(events),
        picture_of_waterfall(accounts.waterfall, labels),
        picture_of_standing(accounts.front, deadline_of(events), labels) if accounts.front else None,
        picture_of_choice(choice, labels) if choice else None,
        *(picture_of_progress(each, k, labels) for k, each in enumerate(progress_of(accounts.run), start=1)),
        picture_of_turns(accounts.run.turns, labels),
    )
    return tuple(picture for picture in found if picture)


def write_pictures(pictures: Iterable[Picture], folder: Path) -> None:
    """Write each picture as PNG and as SVG into a folder that is there.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    for picture in pictures:
        figure = picture.figure()
        for kind in KINDS:
            save(figure, folder / f"{picture.name}.{kind}")
            figure.set_layout_engine("none")  # all stands where it is to be; to find that out takes longest
