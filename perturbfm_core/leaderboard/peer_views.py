"""Database views that present raw values as other benchmarks publish them."""

from __future__ import annotations

# Scores and ranks across entries, as `evaluation.panels.scperturbench.ranking.published_scores` computes them, from the
# raw condition values of the runs that count on their board. An item (`op`) is a condition of a split; several seeds of
# an entry are averaged first. Each subset of DEGs (`top`) is scored separately.
SCPERTURBENCH_SCORES = r"""
CREATE OR REPLACE VIEW scperturbench_scores AS
WITH raw AS (
  SELECT s.split_hash, s.key AS op, s.entry,
    CAST(regexp_extract(s.metric, '_top([0-9]+)$', 1) AS INTEGER) AS top,
    regexp_replace(s.metric, '_top[0-9]+$', '') AS metric,
    CASE WHEN isnan(s.value) THEN NULL ELSE s.value END AS value
  FROM scores AS s JOIN runs AS r ON s.run_id = r.run_id
  WHERE r.counted AND s.panel = 'scperturbench' AND s.scope = 'condition' AND s.status <> 'not_applicable'
),
wide AS (
  SELECT split_hash, op, entry, top,
    count(*) FILTER (metric = 'pearson_distance') AS n_cor,
    avg(value) FILTER (metric = 'pearson_distance') AS pearson_distance,
    avg(value) FILTER (metric = 'edistance') AS edistance,
    avg(value) FILTER (metric = 'mse') AS mse,
    avg(value) FILTER (metric = 'sym_kldiv') AS sym_kldiv,
    avg(value) FILTER (metric = 'wasserstein') AS wasserstein,
    avg(value) FILTER (metric = 'common_degs') AS common_degs
  FROM raw GROUP BY split_hash, op, entry, top
),
scored AS (
  SELECT split_hash, op, entry, top,
    CASE WHEN n_cor > 0 THEN coalesce(1 - pearson_distance, 0) END AS cor,
    1 - (edistance - min(edistance) OVER item) / nullif(max(edistance) OVER item - min(edistance) OVER item, 0)
      AS edistance_score,
    1 - (mse - min(mse) OVER item) / nullif(max(mse) OVER item - min(mse) OVER item, 0) AS mse_score,
    1 - (sym_kldiv - min(sym_kldiv) OVER item) / nullif(max(sym_kldiv) OVER item - min(sym_kldiv) OVER item, 0)
      AS sym_score,
    1 - (wasserstein - min(wasserstein) OVER item)
      / nullif(max(wasserstein) OVER item - min(wasserstein) OVER item, 0) AS was_score,
    common_degs AS DEG_score
  FROM wide WINDOW item AS (PARTITION BY split_hash, op, top)
),
ranked AS (
  SELECT *,
    list_avg([cor, edistance_score, mse_score, sym_score, was_score, DEG_score]) AS ac_score,
    CASE WHEN cor IS NOT NULL THEN rank() OVER (item ORDER BY cor DESC NULLS LAST) END AS Rank_cor,
    CASE WHEN edistance_score IS NOT NULL THEN rank() OVER (item ORDER BY edistance_score DESC NULLS LAST) END
      AS Rank_edistance_score,
    CASE WHEN mse_score IS NOT NULL THEN rank() OVER (item ORDER BY mse_score DESC NULLS LAST) END
      AS Rank_mse_score,
    CASE WHEN sym_score IS NOT NULL THEN rank() OVER (item ORDER BY sym_score DESC NULLS LAST) END
      AS Rank_sym_score,
    CASE WHEN was_score IS NOT NULL THEN rank() OVER (item ORDER BY was_score DESC NULLS LAST) END
      AS Rank_was_score,
    CASE WHEN DEG_score IS NOT NULL THEN rank() OVER (item ORDER BY DEG_score DESC NULLS LAST) END
      AS Rank_DEG_score
  FROM scored WINDOW item AS (PARTITION BY split_hash, op, top)
),
averaged AS (
  SELECT *,
    list_avg([Rank_cor, Rank_edistance_score, Rank_mse_score, Rank_sym_score, Rank_was_score, Rank_DEG_score])
      AS ac_rank
  FROM ranked
)
SELECT *,
  CASE WHEN ac_rank IS NOT NULL
    THEN rank() OVER (PARTITION BY split_hash, op, top ORDER BY ac_rank NULLS LAST) END AS "Rank"
FROM averaged
ORDER BY split_hash, op, top, "Rank" NULLS LAST, entry
"""

PEER_VIEWS = (SCPERTURBENCH_SCORES,)
