"""Origins of the predictive variance of external models, as a note below a suite's table."""

from __future__ import annotations

from collections.abc import Mapping

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import PerturbFMError
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json

_RUNS = "SELECT board, entry, run_id FROM runs WHERE counted ORDER BY board, entry, seed"


def variance_note(store: ArtifactStore, titles: Mapping[tuple[str, str], str]) -> str:
    """Return where the variance of external models comes from, one sentence for each origin; "" without such models.

    Parameters
    ----------
    store
        Where the runs are.
    titles
        {(board, entry): title of the board} of the cells of the table.
    """
    found: dict[str, dict[str, list[str]]] = {}
    boards: dict[str, set[str]] = {}
    for board, entry, run_id in database.query(store, _RUNS).itertuples(index=False):
        title = titles.get((board, entry))
        if title is None or not MODELS.get(load_catalog().model(entry).model).asks_ahead:
            continue
        source = _source(store, str(run_id))
        mine = found.setdefault(source, {}).setdefault(entry, [])
        boards.setdefault(entry, set()).add(title)
        if title not in mine:
            mine.append(title)
    by_board = {
        t: {s for s, of in found.items() if any(t in mine for mine in of.values())}
        for t in sorted(set().union(*boards.values()))
    }
    said = []
    # Most often all models of a board have the same: then boards alone are named.
    alike = all(len(sources) == 1 for sources in by_board.values())
    for source, of in found.items():
        if alike:
            said.append(
                f"{source} on {', '.join(f'*{t}*' for t, sources in by_board.items() if source in sources)}"
            )
            continue
        names = [
            f"`{entry}`" + ("" if set(mine) == boards[entry] else f" ({'; '.join(mine)})")
            for entry, mine in of.items()
        ]
        said.append(f"{source} for {', '.join(names)}")
    return f"Variance of models that run in environments of their own: {'; '.join(said)}." if said else ""


def _source(store: ArtifactStore, run_id: str) -> str:
    """Return where a run says that its variance comes from."""
    try:
        about = read_json(store.run(run_id) / schema.TRAINING_FILE).get("variance", {})
    except PerturbFMError:
        return "unknown"
    source = str(about.get("source", "unknown"))
    return f"{source} of {about['value']:g}" if "value" in about else source
