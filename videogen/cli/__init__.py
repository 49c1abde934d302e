"""The command line. Only the command that was asked for is imported, so that help comes at once.

Exit codes: 0 done; 1 something failed that is not the user's fault; 2 bad input, with one sentence that says what to do;
130 Ctrl-C.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from videogen._version import __version__

if TYPE_CHECKING:
    import typer

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("videogen.cli.generate", "Make a video from a prompt, and from pictures if given."),
    "extend": ("videogen.cli.extend", "Continue a video."),
    "plan": ("videogen.cli.plan", "Say what a request will take, before it runs."),
    "replay": ("videogen.cli.replay", "Make the same bytes again from a receipt."),
    "info": ("videogen.cli.info", "Print the receipt of a video."),
    "vocabulary": ("videogen.cli.vocabulary", "List the words that the shipped model knows."),
    "stage": ("videogen.cli.stage", "Look at the world that the model learns."),
    "train": ("videogen.cli.train", "Train a model from a configuration."),
    "publish": ("videogen.cli.publish", "Make a model folder of a trained run."),
    "evaluate": ("videogen.cli.evaluate", "Measure a model."),
    "benchmark": ("videogen.cli.benchmark", "Measure what it costs on this machine."),
    "serve": ("videogen.cli.serve", "Serve the API and the studio."),
    "keys": ("videogen.cli.keys", "Make, list and remove API keys of a server."),
    "submit": ("videogen.cli.submit", "Send a request to a server."),
    "status": ("videogen.cli.status", "Show how jobs on a server stand."),
    "download": ("videogen.cli.download", "Fetch a clip from a server."),
    "cancel": ("videogen.cli.cancel", "Cancel a job on a server."),
}
"""Command -> (module, one line of help). The module holds either `app`, a typer group, or a function of the command's name."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments without the program's name; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    debug = arguments[0] == "--debug"
    if debug:
        arguments = arguments[1:] or ["--help"]
    if argv is None and threading.current_thread() is threading.main_thread():
        if not debug:
            warnings.simplefilter("ignore")  # of the libraries; ours are printed as notes
        signal.signal(signal.SIGTERM, _terminate)  # leave as after Ctrl-C: no half-written file stays behind
        from videogen.data.allocator import keep_freed_memory

        keep_freed_memory()

    import typer

    # click's base class, of whichever click typer carries
    usage_errors = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
    try:
        result = _application(arguments)(args=arguments, prog_name="videogen", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if debug:
            raise
        message, code = _explain(error, usage_errors)
        if message is None:
            raise
        print(f"Error: {message}", file=sys.stderr)
    if code == 130:
        print("Cancelled; no half-written file is left.", file=sys.stderr)
    return code


def _application(arguments: list[str]) -> typer.Typer:
    import typer

    application = typer.Typer(
        name="videogen",
        help="Text or an image in, a video out.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # importing rich would take a third of the time of `--help`
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            print(__version__)
            raise typer.Exit

    @application.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Print the version and leave."
        ),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    ) -> None:
        pass

    for name, (module, help_line) in COMMANDS.items():
        if arguments[0] != name:
            application.command(name, help=help_line)(_placeholder)
            continue
        loaded = import_module(module)
        group = getattr(loaded, "app", None)
        if group is not None:
            application.add_typer(group, name=name, help=help_line)
            if len(arguments) == 1:
                arguments.append("--help")
        else:
            application.command(name)(getattr(loaded, name))
    return application


def _placeholder() -> None:
    """Stands in the list of commands for one that was not asked for."""


def _explain(error: Exception, usage_errors: type) -> tuple[str | None, int]:
    """One sentence and the exit code for what a user can meet; (None, 1) for a bug, which shows its traceback."""
    if isinstance(error, usage_errors):
        return " ".join(error.format_message().split()), 2  # type: ignore[attr-defined]
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return " ".join(str(error).split()), 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; nothing was written.", 1
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(("videogen", "tokenizer3d")):
        return f"{error}; install it, see the extras in the README.", 1
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; ask for a shorter or smaller video.", 1
    if isinstance(error, FloatingPointError):
        return f"the model gave numbers that are not finite, so nothing was written ({error}).", 1
    return None, 1


def _terminate(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)
