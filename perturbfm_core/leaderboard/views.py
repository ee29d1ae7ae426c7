"""Views of the leaderboard database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perturbfm_core.leaderboard.peer_views import PEER_VIEWS
from perturbfm_core.leaderboard.reasons import NOT_RECORDED

_PART = "panel, metric, metric_version, scope, key, value, n, direction, status, reason"


def scores_view(files: Sequence[Path]) -> str:
    """Return the view `scores`: global scores from the database, all others from Parquet files.

    Parameters
    ----------
    files
        One file per current run, in folders ``board=<board>/entry=<entry>``, whose names DuckDB leaves unread where
        a query asks for another board or entry.
    """
    view = f"""
CREATE OR REPLACE VIEW scores AS
SELECT g.run_id, g.dataset, g.split_hash, g.split_kind, g.entry, g.config_hash, g.seed, {_of("g")}, r.board
FROM global_scores AS g LEFT JOIN runs AS r ON r.run_id = g.run_id
"""
    if not files:
        return view
    listed = ",".join("'" + str(f).replace("'", "''") + "'" for f in files)
    return f"""{view}
UNION ALL
SELECT p.run_id, r.dataset, r.split_hash, r.split_kind, p.entry, r.config_hash, r.seed, {_of("p")},
  nullif(p.board, 'none') AS board
FROM read_parquet([{listed}], hive_partitioning = true, hive_types_autocast = false) AS p
JOIN runs AS r ON r.run_id = p.run_id
WHERE p.scope <> 'global'
"""


def moved_views(files: Sequence[Path]) -> list[str]:
    """Return the views that read `scores` for one connection, where the files lie elsewhere than when they were made."""
    return [
        v.replace("CREATE OR REPLACE VIEW", "CREATE TEMP VIEW", 1) for v in (scores_view(files), *SCORE_VIEWS)
    ]


def _of(table: str) -> str:
    return ", ".join(f"{table}.{c.strip()}" for c in _PART.split(","))


_LEADERBOARD = """
CREATE OR REPLACE VIEW leaderboard AS
SELECT
  board, dataset, split_kind, panel, metric,
  CASE WHEN ranked THEN rank() OVER (
    PARTITION BY board, panel, metric, ranked ORDER BY n_undefined, badness) END AS rank,
  entry, model, family, value, ci_low, ci_high,
  diff AS diff_best_baseline, diff_low, diff_high, best_baseline,
  ceiling, ceiling_noise_free, null_floor, train_mean_floor, control_mean_floor,
  n_conditions, n_undefined, n_units, grain, n_seeds, n_splits, n_splits_expected, n_splits_no_signal,
  no_signal, shared_control, direction, metric_version,
  folds_done, folds_total, complete, reason, interval_reason, diff_reason, ceiling_reason, floor_reason,
  marks_reason,
  CASE WHEN comparable THEN rank() OVER (
    PARTITION BY board, panel, metric, comparable ORDER BY n_undefined, badness) END AS rank_so_far
FROM standings
ORDER BY board, panel, metric, rank NULLS LAST, entry
"""

_BEST = """
CREATE OR REPLACE VIEW best_per_split AS
WITH placed AS (
  SELECT *,
    row_number() OVER (
      PARTITION BY board, panel, metric ORDER BY rank NULLS LAST, folds_done DESC, value IS NULL, entry) AS place,
    count(*) OVER whole AS n_entries,
    count(rank) OVER whole AS n_ranked,
    max(CASE WHEN entry = best_baseline THEN value END) OVER whole AS baseline_value
  FROM leaderboard WINDOW whole AS (PARTITION BY board, panel, metric)
)
SELECT board, dataset, split_kind, panel, metric, direction,
  CASE WHEN rank IS NOT NULL THEN entry END AS entry,
  CASE WHEN rank IS NOT NULL THEN family END AS family,
  CASE WHEN rank IS NOT NULL THEN value END AS value,
  CASE WHEN rank IS NOT NULL THEN ci_low END AS ci_low,
  CASE WHEN rank IS NOT NULL THEN ci_high END AS ci_high,
  best_baseline, baseline_value,
  CASE WHEN rank IS NOT NULL THEN diff_best_baseline END AS diff_best_baseline,
  CASE WHEN rank IS NOT NULL THEN diff_low END AS diff_low,
  CASE WHEN rank IS NOT NULL THEN diff_high END AS diff_high,
  n_entries, n_ranked, folds_done, folds_total, complete, reason,
  coalesce(reason, interval_reason) AS interval_reason, coalesce(reason, diff_reason) AS diff_reason
FROM placed WHERE place = 1
ORDER BY board, panel, metric
"""

_TREND = """
CREATE OR REPLACE VIEW trend AS
SELECT r.board, r.dataset, r.split_key, r.split_hash, r.entry, r.family, r.seed, g.panel, g.metric, g.direction,
  r.created, r.run_id, r.code, r.git_commit, r.is_current, g.value,
  lag(g.value) OVER earlier AS previous_value,
  g.value - lag(g.value) OVER earlier AS change,
  r.code IS DISTINCT FROM lag(r.code) OVER earlier AND lag(r.run_id) OVER earlier IS NOT NULL AS code_changed,
  r.config_hash IS DISTINCT FROM lag(r.config_hash) OVER earlier AND lag(r.run_id) OVER earlier IS NOT NULL
    AS config_changed,
  CASE
    WHEN g.value IS NULL THEN coalesce(g.reason, g.status, 'undefined')
    WHEN lag(r.run_id) OVER earlier IS NULL THEN 'first run of this entry and seed on this split'
    WHEN lag(g.value) OVER earlier IS NULL THEN 'the run before has no value'
  END AS reason
FROM global_scores AS g JOIN runs AS r ON r.run_id = g.run_id
WINDOW earlier AS (
  PARTITION BY r.board, r.dataset, r.split_key, r.split_hash, r.data_sha256, r.entry, r.seed, g.panel, g.metric
  ORDER BY r.created, r.run_id)
"""

# As in standings: seeds of a fold count once with their mean, folds by their number of conditions, and folds without
# signal only where no fold of the board has any.
_STRATA = """
CREATE OR REPLACE VIEW strata AS
WITH silent AS (
  SELECT board, bool_and(coalesce(no_signal, false)) AS everywhere FROM runs WHERE counted GROUP BY board
),
folds AS (
  SELECT s.board, any_value(s.dataset) AS dataset, any_value(s.split_kind) AS split_kind, s.panel, s.metric,
    any_value(s.direction) AS direction, s.key, s.entry, any_value(r.family) AS family, avg(s.value) AS value,
    count(DISTINCT s.run_id) AS n_runs, max(s.n) AS n_conditions, count(*) FILTER (s.value IS NULL) AS n_undefined,
    min(s.reason) AS reason
  FROM scores AS s JOIN runs AS r ON r.run_id = s.run_id LEFT JOIN silent AS q ON q.board = s.board
  WHERE s.scope = 'stratum' AND r.counted AND (q.everywhere OR NOT coalesce(r.no_signal, false))
  GROUP BY s.board, s.panel, s.metric, s.key, s.entry, s.split_hash
),
pooled AS (
  SELECT *, CASE WHEN value IS NOT NULL THEN n_conditions END AS weight FROM folds
)
SELECT board, any_value(dataset) AS dataset, any_value(split_kind) AS split_kind, panel, metric,
  any_value(direction) AS direction, key AS stratum, entry, any_value(family) AS family,
  sum(value * weight) / nullif(sum(weight), 0) AS value, CAST(sum(n_runs) AS BIGINT) AS n_runs,
  count(*) AS n_splits, CAST(sum(n_conditions) AS BIGINT) AS n_conditions,
  CAST(sum(n_undefined) AS BIGINT) AS n_undefined,
  CASE WHEN sum(value * weight) / nullif(sum(weight), 0) IS NULL THEN coalesce(min(reason), 'undefined') END AS reason
FROM pooled
GROUP BY board, panel, metric, key, entry
"""

_COSTS = ("fit_seconds", "predict_seconds", "cpu_seconds", "peak_memory_mb", "n_parameters")


def _cost_view() -> str:
    means = ", ".join(f"avg({c}) AS {c}" for c in _COSTS)
    whys = ", ".join(f"CASE WHEN avg({c}) IS NULL THEN '{NOT_RECORDED}' END AS {c}_reason" for c in _COSTS)
    return f"""
CREATE OR REPLACE VIEW cost AS
SELECT board, any_value(dataset) AS dataset, any_value(split_kind) AS split_kind, entry, any_value(family) AS family,
  count(*) AS n_runs, {means}, {whys}
FROM runs WHERE counted GROUP BY board, entry
ORDER BY board, entry
"""


_BOARDS = """
CREATE OR REPLACE VIEW boards AS
SELECT *,
  folds_done >= folds_total AS complete,
  CASE
    WHEN no_signal THEN 'no signal in the data'
    WHEN folds_done < folds_total THEN folds_done || ' of ' || folds_total || ' folds'
  END AS reason
FROM (
  SELECT r.board, any_value(r.dataset) AS dataset, any_value(r.split_kind) AS split_kind,
    any_value(s.unit) AS unit, count(DISTINCT r.split_hash) AS folds_done,
    CAST(coalesce(max(s.cv_k), 1) AS BIGINT) AS folds_total, count(DISTINCT r.entry) AS n_entries, count(*) AS n_runs,
    bool_and(coalesce(r.no_signal, false)) AS no_signal, bool_or(r.shared_control) AS shared_control
  FROM runs AS r JOIN splits AS s ON s.split_hash = r.split_hash
  WHERE r.counted GROUP BY r.board)
ORDER BY board
"""

# Those that read `scores`.
SCORE_VIEWS = (_STRATA, *PEER_VIEWS)
VIEWS = (_LEADERBOARD, _BEST, _TREND, _STRATA, _cost_view(), _BOARDS, *PEER_VIEWS)
VIEW_NAMES = (
    "leaderboard",
    "best_per_split",
    "trend",
    "strata",
    "cost",
    "boards",
    "scores",
    "scperturbench_scores",
)
