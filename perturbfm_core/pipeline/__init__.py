"""The pipeline: one file per stage, named as the Dagster asset that shows it, from a data set to the leaderboard.

``dataset -> split -> (pretrained_encoder, gene_graph) -> trained_model -> prediction -> metric_panel -> report``, and
over all runs ``leaderboard``. `experiment` is the value that the stages from `trained_model` on pass along; `opening`
makes one from the names of a split and a catalog entry; `run` chains the stages; `submission` scores predictions made
elsewhere, `publishing` makes runs of them, `inbox` takes them from a folder; `rescoring` brings old runs up to new metrics. `suite` lists
the cells of many experiments, and the files whose names begin with it run them and sum them up. A stage takes what the one before returned and imports earlier files only.
"""
