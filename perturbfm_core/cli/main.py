"""The ``perturbfm`` command: its verbs, each imported when it is called, and how errors are shown."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from perturbfm_core import __version__
from perturbfm_core.cli.crash import one_line, printable_streams, write_crash
from perturbfm_core.cli.deferred import defer
from perturbfm_core.cli.folders import FOLDERS
from perturbfm_core.errors import ConfigError, MissingExtraError, PerturbFMError
from perturbfm_core.store.disk import refused_write

# Typer brings its own copy of click; this is the base of its usage errors in either case.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# Exit code of a fault of the program (EX_SOFTWARE of sysexits.h).
FAULT = 70
_TILDE = re.compile(r"(--[\w-]+=)?~(/|$)")

# Verb: module under `perturbfm_core.cli`, and its line in the help (a test holds it to the verb's own). A module that
# has `app` is a group of verbs.
VERBS: dict[str, tuple[str, str]] = {
    "data": ("data", "Make, import and inspect data sets."),
    "splits": ("splits", "Freeze, find, import, audit and verify splits."),
    "graphs": ("graphs", "Build, register and inspect gene graphs and gene features."),
    "knowledge": ("knowledge", "Register, list, show and remove public sources of gene graphs and features."),
    "models": ("models", "Look at models and catalog entries."),
    "train": ("train", "Fit a model on a split, predict, score, and publish the run."),
    "run": (
        "train",
        "Run an entry on a split from fit to report, all its seeds, without a Dagster instance.",
    ),
    "pretrain": (
        "pretrain",
        "Pre-train a cell encoder on the train rows of a split, for `--pretrained-encoder`.",
    ),
    "tune": (
        "tune",
        "Search a model's declared hyperparameters on a split's validation; test rows are not read.",
    ),
    "sweep": ("sweep", "Run and show sweeps: a grid of an entry's parameters, selected on validation."),
    "external": (
        "external",
        "Run models in environments of their own: GEARS, scGen, CPA, STATE, or a worker of yours.",
    ),
    "predictions": ("predictions", "Make the file that a model of your own fills in."),
    "eval": ("evaluate", "Score predictions made elsewhere."),
    "submit": (
        "submit",
        "Publish predictions made elsewhere as a run, scored and ranked beside all others.",
    ),
    "inbox": ("inbox", "Publish the prediction files that lie in the inbox, each once."),
    "runs": ("run_records", "List, show, compare, tag and remove runs."),
    "rescore": (
        "rescore",
        "Score runs again by the metrics that there are now, without a fit; each is published as a new run.",
    ),
    "metrics": ("metrics", "List, validate and probe the metrics."),
    "parity": (
        "metrics",
        "Compare every record of a parity case with the values that the peer's own code gave.",
    ),
    "leaderboard": ("leaderboard", "Rebuild, show and query the leaderboard."),
    "serve": (
        "serve",
        "Serve the leaderboard page, reports and scorecards on this machine, read-only, until Ctrl-C.",
    ),
    "site": ("site", "Build a folder of static pages."),
    "report": (
        "report",
        "Find the report of a run, or make it anew with --out; --open shows it in a browser.",
    ),
    "export": ("runs", "Write a run's predictions (condition x gene) or scores as h5ad, parquet or CSV."),
    "predict": (
        "predict",
        "Predict conditions with a run's model: genes of largest change, intervals, and whether to trust them.",
    ),
    "suggest": (
        "predict",
        "Suggest the untested perturbations that would tell a run's model most, not all the same.",
    ),
    "suite": ("suite", "List, run and sum up benchmark suites."),
    "demo": ("runs", "Run a whole suite (default: the embedded demo) and show the leaderboard."),
    "doctor": (
        "doctor",
        "Check the installation, the folders and the catalog; exit 2 if anything is wrong.",
    ),
}


@contextlib.contextmanager
def _abort_on_interrupt() -> Iterator[None]:
    """Pass Ctrl-C on to `main`: typer makes an exit without a word of it."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Abort from error


class _Verbs(TyperGroup):
    """The group of all verbs: lists them without importing any, and imports the one that is called."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options that stand before a verb."""
        with _abort_on_interrupt():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was named."""
        with _abort_on_interrupt():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one verb, imported now; None if there is none of that name."""
        return verb(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs of the help text."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


def verb(name: str) -> Any:
    """Return the click command of a verb."""
    module = importlib.import_module(f"perturbfm_core.cli.{VERBS[name][0]}")
    group = getattr(module, "app", None)
    if group is not None and name not in getattr(module, "COMMANDS", {}):
        command: Any = typer.main.get_command(group)
    else:
        function, kind = module.COMMANDS[name]
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, **({} if kind is None else {"cls": kind}))(function)
        command = typer.main.get_command(alone)
    command.name = name
    return command


app = typer.Typer(
    name="perturbfm",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Honest benchmarks of perturbation-response prediction.",
)


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
    """Run the command line and exit.

    A user's error is one line on standard error and exit code 2. Any other is a fault of the program: one line, exit
    code 70, and a file with the traceback. ``--debug`` shows the traceback of either.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if "--debug" in arguments:
        # Accepted anywhere, as people add it to the line that failed.
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    try:
        defer()
        printable_streams()
        _check_paths(arguments)
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except (PerturbFMError, _UsageError, OSError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        _fail(error)
    except ModuleNotFoundError as error:
        if "--debug" in arguments:
            raise
        _fail(MissingExtraError.of(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; nothing half-written was left", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the one place where every fault of the program ends
        refused = None if "--debug" in arguments else refused_write(error)
        if refused is not None:
            _fail(refused)
        if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
            # What pathlib says of a path; the other calls have an OSError for it.
            _fail(error)
        _crash(error, arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _check_paths(arguments: list[str]) -> None:
    """Refuse paths that are not UTF-8, which half of the libraries fail on, each in its own way, and a ``~`` as it is.

    Shells replace it at the beginning of a word alone, not in ``--out=~/data`` or in a file of variables.
    """
    named = [(name, os.environ.get(name, "")) for name in FOLDERS]
    for what, text in (*(("argument", a) for a in arguments), *named):
        try:
            text.encode()
        except UnicodeEncodeError:
            _fail(ConfigError(f"{what} {text!r} is not UTF-8; rename the file or folder"))
        if _TILDE.match(text):
            msg = f"{what} {text!r}: ~ would be a folder of that name, as no shell has replaced it; write the path out, or $HOME"
            _fail(ConfigError(msg))
    for name, text in named:
        # Read as a folder it would be an empty one.
        if os.path.isfile(text):
            _fail(ConfigError(f"{name} {text!r} is a file; name a folder"))
    try:
        os.getcwd()
    except FileNotFoundError:
        _fail(ConfigError("the current folder was removed; change to another, and repeat the command"))


def _crash(error: Exception, arguments: list[str]) -> NoReturn:
    """Report a fault of the program."""
    file = write_crash(error, arguments)
    if "--debug" in arguments:
        traceback.print_exception(error)
    place = "" if file is None else f"; details in {file}"
    again = "" if "--debug" in arguments else "; rerun with --debug for the traceback"
    text = one_line(f"{type(error).__name__}: {error}", 300)
    print(f"unexpected error: {text}; this is a fault of perturbfm{place}{again}", file=sys.stderr)
    sys.exit(FAULT)


def _fail(error: BaseException) -> NoReturn:
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
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({str(error) or 'no size given'}); use a smaller file or a larger machine"
    else:
        text = _output_refused(error) or str(refused_write(error) or error) or type(error).__name__
    print("error: " + one_line(text, 4000), file=sys.stderr)
    sys.exit(2)


def _output_refused(error: BaseException) -> str | None:
    """Return why standard output takes nothing more, None if an error is another one; the rest is then dropped."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    # Files are written by the store; what this package writes itself is printed.
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not places[-1:] or not places[-1].startswith((__package__, "typer", "click")):
        return None
    # Python would try once more at exit, and say so in lines of its own.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"cannot write standard output: {error.strerror}; make room where it goes, and repeat the command"


if __name__ == "__main__":
    main()
