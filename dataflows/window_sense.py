"""Do the windows of a view make sense: they fit their panes, and each function has what it needs. No SQL here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dataflows.locate import Path
from dataflows.view_spec import ViewSpec
from dataflows.view_stages import view_windows
from dataflows.wording import Complaint
from models.expressions import Kind
from state.window_spec import OF_EVENTS

_ABOUT_WINDOWS = ("pane", "allowed_lateness", "on_late", "where")


def window_complaints(name: str, view: ViewSpec, reported: Callable[[Path], bool]) -> Iterator[Complaint]:
    """What cannot be meant in the windows of a view; `reported` says whether a path has a complaint already."""
    path: Path = ("views", name)
    if not view.windows:
        if not view.features and not reported((*path, "features")) and not reported((*path, "windows")):
            yield Complaint(path, "the view has no features", "features that are loaded, or windows to be computed")
        for key in _ABOUT_WINDOWS:
            if key in view.model_fields_set and not reported((*path, "windows")):
                yield Complaint((*path, key), f"'{key}' is about windows, and the view has none", "windows")
        return
    if view.features:
        what = "the view has both features, which are loaded, and windows, which are computed"
        yield Complaint((*path, "windows"), what, "two views")
    found = list(_windows(path, view, reported))
    yield from found
    if not found:
        try:
            view_windows(name, view)
        except ValueError as error:
            what, _, instead = str(error).partition("; choose ")
            yield Complaint((*path, "windows"), what, instead)


def _windows(path: Path, view: ViewSpec, reported: Callable[[Path], bool]) -> Iterator[Complaint]:
    for feature, windowed in view.windows.items():
        here: Path = (*path, "windows", feature)
        if windowed.window % view.pane and not reported((*path, "pane")):
            what = f"the window of '{feature}' is no multiple of the view's pane"
            instead = f"a multiple of the pane, {view.pane.total_seconds():g}s"
            yield Complaint((*here, "window"), what, instead)
        if windowed.of is None and windowed.function not in OF_EVENTS and not reported(here):
            yield Complaint(here, f"{windowed.function} needs 'of'", "of: a contract field, or SQL over some")


def window_sql(name: str, view: ViewSpec) -> Iterator[tuple[Path, str, Kind]]:
    """Each expression of a view's windows: where it is, the SQL, and what it has to give."""
    path: Path = ("views", name)
    if view.where is not None:
        yield (*path, "where"), view.where, "boolean"
    for feature, windowed in view.windows.items():
        here: Path = (*path, "windows", feature)
        if windowed.of is not None:
            yield (*here, "of"), windowed.of, "string" if windowed.function == "distinct" else "number"
        if windowed.where is not None:
            yield (*here, "where"), windowed.where, "boolean"
