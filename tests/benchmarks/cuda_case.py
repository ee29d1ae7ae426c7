"""Training of the networks on a CUDA device: rows per second, use of the card beside its limits, repeatability.

python -m tests.benchmarks.cuda_case [--device cuda] [--conditions 237 2000] [--cells]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from perturbfm_core.models.base import new_model
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import Query, TrainView, train_view
from tests.benchmarks import network_case

VERSIONS = ("perturbfm-v0", "perturbfm-v1", "perturbfm-v2", "perturbfm-v3")


def new(version: str, device: str, **params: Any) -> Any:
    """Return a model with three graphs where it reads graphs, its network switched on."""
    graphs = {} if version == "perturbfm-v0" else {"adjacency": network_case.GRAPHS}
    model = new_model(version, {"gate": "on", "device": device, **graphs, **params})
    model.side_info = network_case.knowledge()
    return model


def limits(device: str) -> dict[str, float]:
    """Return the measured rates of the device: copies in GB/s, float32 and bf16 products in TFLOP/s."""
    source = torch.randn(2**28, device=device)
    to = torch.empty_like(source)
    found = {"copy_gb_per_s": 2 * source.numel() * 4 / _seconds(lambda: to.copy_(source)) / 1e9}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(8192, 8192, device=device, dtype=dtype)
        found[f"{name}_tflop_per_s"] = 2 * 8192**3 / _seconds(lambda x=x: x @ x) / 1e12
    return found


def _seconds(work: Any, times: int = 10) -> float:
    """Return the median seconds of some work on the current CUDA device."""
    taken = []
    for _ in range(times + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return float(np.median(taken[3:]))


def rate(version: str, view: TrainView, device: str, epochs: int, **params: Any) -> dict[str, float]:
    """Return rows per second of the training on all rows, without core."""
    stamps = network_case.Stamps(time.perf_counter)
    model = new(version, device, core="none", epochs=epochs, patience=epochs, **params)
    model.on_epoch = stamps
    model.fit(view, 0)
    seconds = stamps.per_epoch("member 1")
    return {"rows_per_s": len(view.delta) / seconds, "ms_per_epoch": 1e3 * seconds}


def device_share(version: str, view: TrainView, device: str, **params: Any) -> dict[str, float]:
    """Return the share of an epoch in which kernels run, and operations of its products per epoch."""
    from torch.profiler import ProfilerActivity, profile

    class Window:
        """Profile epochs 6 to 15 of the last training."""

        def __init__(self) -> None:
            self.profile = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
            self.seconds = 0.0

        def __call__(self, report: Any) -> None:
            if report.phase != "member 1":
                return
            if report.epoch == 5:
                torch.cuda.synchronize()
                self.profile.__enter__()
                self.seconds = time.perf_counter()
            if report.epoch == 15:
                torch.cuda.synchronize()
                self.seconds = time.perf_counter() - self.seconds
                self.profile.__exit__(None, None, None)

    window = Window()
    model = new(version, device, core="none", epochs=16, patience=16, **params)
    model.on_epoch = window
    model.fit(view, 0)
    busy, kernels = 0.0, 0
    for event in window.profile.events():
        if str(event.device_type).endswith("CUDA"):
            busy += event.device_time_total * 1e-6
            kernels += 1
    counter = FlopCounterMode(display=False)
    model = new(version, device, core="none", epochs=2, patience=2, **params)
    with counter:
        model.fit(view, 0)
    # Two epochs, without validation, of the member and of the inner folds' networks.
    phases = 1 + len(view.inner)
    return {
        "busy_share_while_profiled": busy / window.seconds,
        "kernel_ms_per_epoch": 1e3 * busy / 10,
        "kernels_per_epoch": kernels / 10,
        "gflop_per_epoch": counter.get_total_flops() / 2 / phases / 1e9,
    }


def whole_fit(view: TrainView, device: str, version: str = "perturbfm-v2") -> tuple[Any, float]:
    """Return a fitted model with core, gate and variance, and its wall seconds."""
    start = time.perf_counter()
    model = new(version, device)
    model.fit(view, 0)
    return model, time.perf_counter() - start


def means(model: Any, view: TrainView) -> np.ndarray:
    """Return float32 [n, G], predictions of 200 unseen doubles."""
    singles = network_case.perturbations()[: network_case.SINGLES]
    rng = np.random.default_rng(3)
    names = sorted({"+".join(sorted(rng.choice(singles, 2, replace=False))) for _ in range(200)})
    table = network_case.conditions(names)
    return np.asarray(
        model.predict(Query(table, view.genes, np.repeat(view.control[:1], len(names), axis=0))).mean
    )


def main() -> None:
    """Print the measurements as they are made, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--conditions", type=int, nargs="*", default=[237, 2000])
    parser.add_argument("--cells", action="store_true", help="also fit v2 on 91,000 cells")
    parser.add_argument("--fits", action="store_true", help="also whole fits, on the device and the CPU")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def note(**values: Any) -> None:
        rows.append(values)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}, flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(rows, indent=1))

    def attempt(what: str, work: Any, **labels: Any) -> Any:
        try:
            found = work()
        except Exception as error:  # one failing case must not end the others
            note(what=what, **labels, error=f"{type(error).__name__}: {str(error)[:300]}")
            return None
        if isinstance(found, dict):
            note(what=what, **labels, **found)
        return found

    card = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor()
    note(what="machine", card=card, torch=torch.__version__, threads=torch.get_num_threads())
    if args.device == "cuda":
        attempt("limits", lambda: limits(args.device))
    base = network_case.condition_view()
    for n in args.conditions:
        view = base if n == len(base) else network_case.condition_view(n - len(base))
        for version in VERSIONS:
            # Compilation takes half a minute, so one network stands for all.
            compiled = [{"compile": True}] if version == "perturbfm-v2" and view is base else []
            for options in ({}, {"precision": "bf16"}, *compiled):
                if args.device != "cuda" and options:
                    continue
                labels = {"version": version, "conditions": n, **options}
                attempt(
                    "rate",
                    lambda v=version, x=view, o=options: rate(v, x, args.device, args.epochs, **o),
                    **labels,
                )
            if args.device == "cuda":
                attempt(
                    "share",
                    lambda v=version, x=view: device_share(v, x, args.device),
                    version=version,
                    conditions=n,
                )
    if args.fits:
        first = attempt("fit", lambda: whole_fit(base, args.device))
        again = attempt("fit", lambda: whole_fit(base, args.device))
        cpu = attempt("fit", lambda: whole_fit(base, "cpu"))
        if first and again and cpu:
            a, b, c = (means(m, base) for m, _ in (first, again, cpu))
            note(
                what="whole fit",
                seconds=first[1],
                seconds_again=again[1],
                cpu_seconds=cpu[1],
                difference_same_seed=float(np.abs(a - b).max()),
                difference_from_cpu=float(np.abs(a - c).max()),
                correlation_with_cpu=float(np.corrcoef(a.ravel(), c.ravel())[0, 1]),
                scale=float(np.abs(c).max()),
            )
    if args.cells:
        ds = network_case.cells()
        spec = network_case.SplitSpec(
            kind="combo_ood", folds=5, fold=0, validation="inner_cv", calibration="inner_cv"
        )
        (split,) = freeze(ds, spec)
        view = train_view(ds, split)
        for version in VERSIONS:
            attempt(
                "cells",
                lambda v=version: {
                    "seconds": whole_fit(view, args.device, v)[1],
                    **rate(v, view, args.device, args.epochs),
                },
                version=version,
                conditions=len(view.delta),
            )
        if args.device == "cuda":
            note(what="memory", peak_gb=torch.cuda.max_memory_allocated() / 1e9)


if __name__ == "__main__":
    main()
