"""Metrics of scPerturBench, as functions on arrays.

They are written from the definitions of the metrics; scPerturBench's own code (GPL-3.0) is not used.
"""
