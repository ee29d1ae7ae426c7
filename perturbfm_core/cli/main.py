"""The ``perturbfm`` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from perturbfm_core import __version__
from perturbfm_core.cli import data, graphs, leaderboard, metrics, models, runs, splits, train
from perturbfm_core.cli.doctor import doctor
from perturbfm_core.cli.model_options import ModelCommand
from perturbfm_core.cli.predict import predict, suggest
from perturbfm_core.cli.pretrain import pretrain
from perturbfm_core.cli.tune import tune
from perturbfm_core.errors import PerturbFMError

# Typer brings its own copy of click; this is the base of its usage errors in either case.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="perturbfm",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Honest benchmarks of perturbation-response prediction.",
)
app.add_typer(data.app, name="data")
app.add_typer(splits.app, name="splits")
app.add_typer(graphs.app, name="graphs")
app.add_typer(models.app, name="models")
app.add_typer(runs.eval_app, name="eval")
app.add_typer(metrics.app, name="metrics")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("train", cls=ModelCommand)(train.train)
app.command("run", cls=ModelCommand)(train.run)
app.command("tune", cls=ModelCommand)(tune)
for _name, _verb in (
    ("pretrain", pretrain),
    ("parity", metrics.parity),
    ("export", runs.export),
    ("predict", predict),
    ("suggest", suggest),
    ("demo", runs.demo),
    ("doctor", doctor),
):
    app.command(_name)(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"perturbfm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Honest benchmarks of perturbation-response prediction."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    if "--debug" in arguments:
        # Accepted anywhere, as people add it to the line that failed.
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    try:
        code = app(arguments, standalone_mode=False)
    except (PerturbFMError, _UsageError, OSError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; nothing half-written was left", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: BaseException) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        # A group without a verb: its help, laid out as it is.
        print(error.ctx.get_help(), file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(2)
    if isinstance(error, _UsageError):
        text = str(getattr(error, "format_message", lambda: error)())
        context = getattr(error, "ctx", None)
        if context is not None:
            text += f" (see `{context.command_path} --help`)"
    elif isinstance(error, BrokenPipeError):
        sys.exit(141)
    else:
        text = str(error) or type(error).__name__
    print("error: " + " ".join(text.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
