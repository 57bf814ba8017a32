"""The command line.

``isplit profile | package | serve | forward | register | unregister | predict | recommend | exits |
label | device | keys | store``, for research ``isplit bottleneck | evaluate``, before deployment
``isplit simulate``, and ``isplit demo``. ``isplit docs`` prints the documentation.

Exit codes:
    0: done.
    1: any error not listed here.
    2: wrong usage.
    3: bad input, such as a file, folder, name, question or device token.
    4: the server cannot be reached, or refuses the token.
    5: TorchServe did not start, register or stop, or the store cannot be used.
    130: interrupted (Ctrl-C).
    143: terminated (SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from .. import __version__
from ..errors import IsplitError, ServingError, StoreError, TransportError

__all__ = ["COMMANDS", "build_parser", "exit_code", "main"]

COMMANDS: Final = (
    "profile",
    "package",
    "serve",
    "forward",
    "register",
    "unregister",
    "predict",
    "recommend",
    "label",
    "device",
    "keys",
    "exits",
    "store",
    "bottleneck",
    "evaluate",
    "simulate",
    "demo",
    "docs",
)
"""The commands, which are modules of this package.

Only the chosen one is imported, so that ``isplit predict`` needs no torch.
"""

_DESCRIPTION: Final = """\
Split a PyTorch classifier between a device and TorchServe, and learn from live
traffic where to cut.

The usual order: profile, package, serve (or register), predict, recommend.
To see everything at work first: isplit demo
"""
_EPILOG: Final = """\
Help for one command: isplit COMMAND --help
The documentation: isplit docs"""

# The extra of isplit-plugin that installs a module.
_EXTRAS: Final = {
    "onnxruntime": "onnx",
    "torch": "torch",
    "torchvision": "torch",
    "safetensors": "torch",
    "onnx": "torch",
    "rich": "torch",
    "ts": "server",
    "model_archiver": "server",
    "yaml": "server",
    "sqlalchemy": "server",
    "psutil": "server",
    "aiohttp": "forwarder",
    "cryptography": "exits",
    "pydantic": "server",
    "matplotlib": "report",
    "simpy": "simulate",
    "timm": "timm",
    "foolbox": "demo",
    "efficientnet_lite_pytorch": "demo",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    An error is one line on stderr; with ``--json``, one JSON object.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), None)
    options = build_parser(command if command in COMMANDS else None).parse_args(words)
    with _sigterm_interrupts() as terminated:
        status = _run(options)
    return 143 if terminated.is_set() else status


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The argument parser. With ``only``, no other command's module is imported."""
    parser = argparse.ArgumentParser(
        prog="isplit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"isplit-plugin {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for name in COMMANDS:
        if only is not None and name != only:
            commands.add_parser(name, add_help=False)
            continue
        module = importlib.import_module(f"{__name__}.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def exit_code(error: IsplitError) -> int:
    """The exit code for an error; see the module's docstring."""
    if isinstance(error, TransportError):
        return 4
    if isinstance(error, ServingError | StoreError):
        return 5
    return 3 if error.status < 500 else 1


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[threading.Event]:
    """Let SIGTERM raise KeyboardInterrupt, so that a command cleans up. Yields whether it came."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def interrupt(*_: object) -> None:
        terminated.set()
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except IsplitError as error:
        if getattr(options, "json", False):
            print(json.dumps(error.to_json(), default=str), file=sys.stderr)
        else:
            _print_error(options, error.message)
        return exit_code(error)
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".", maxsplit=1)[0]
        extra = _EXTRAS.get(module, "all")
        _print_error(options, f"{error}. Install it with: pip install 'isplit-plugin[{extra}]'")
        return 3
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        # About a file that an option names: a folder instead of a file, no permission, a full disk.
        if error.filename is None:
            raise
        _print_error(options, f"{error.filename}: {error.strerror}")
        return 3
    except KeyboardInterrupt:
        _print_error(options, "interrupted")
        return 130


def _print_error(options: argparse.Namespace, text: str) -> None:
    print(f"isplit {options.command}: {text}", file=sys.stderr)
