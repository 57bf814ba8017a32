"""The command line: ``isplit profile | package | serve | register | predict | recommend | device | store | demo``, for
research ``isplit bottleneck | evaluate``.

Exit codes: 0 done; 2 wrong usage; 3 bad input (a file, folder, name or question); 4 the server cannot be reached or
refuses the token; 5 TorchServe did not start, register or stop; 1 anything else; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Final

from .. import __version__
from ..errors import IsplitError, ServingError, StoreError, TransportError

__all__ = ["COMMANDS", "build_parser", "main"]

# name -> module in this package; imported only when chosen, so that `isplit predict` on a device needs no torch.
COMMANDS: Final = {
    "profile": "profile",
    "package": "package",
    "serve": "serve",
    "register": "register",
    "predict": "predict",
    "recommend": "recommend",
    "label": "label",
    "device": "device",
    "store": "store",
    "bottleneck": "bottleneck",
    "evaluate": "evaluate",
    "demo": "demo",
}

_DESCRIPTION = """\
Split one PyTorch classifier between a device and TorchServe, and learn from live traffic where to cut.

The usual order:
  isplit profile     a calibration folder -> sizes, times, accuracy of codecs, class-conditional importance (CUI)
  isplit package     network + profile    -> model_store/NAME.mar for TorchServe, NAME.head.zip for the device
  isplit serve       model_store/         -> a running TorchServe with the endpoint `isplit` (or: isplit register)
  isplit predict     photos               -> labels, with the head run here and the tail on the server
  isplit recommend   a model's name       -> where to cut now, and where a bottleneck is worth training
  isplit label       ids and classes      -> measured accuracy, from a back office that knows better
  isplit device      an id and a secret   -> a token by which the server's statistics know a device
  isplit store       a URL                -> the statistics of live traffic: checked, exported, compacted
  isplit bottleneck  network + photos     -> a smaller code for what travels, trained
  isplit evaluate    network + photos     -> which predictor of a split's accuracy to trust
See everything at work first: isplit demo
"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; with ``only``, the other commands are listed but not loaded."""
    parser = argparse.ArgumentParser(
        prog="isplit",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"isplit-plugin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        if only is not None and name != only:
            commands.add_parser(name, add_help=False)
            continue
        module = importlib.import_module(f"{__name__}.{COMMANDS[name]}")
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
    """The process's exit code for an error (see the module's docstring)."""
    if isinstance(error, TransportError):
        return 4
    if isinstance(error, (ServingError, StoreError)):
        return 5
    return 3 if error.status < 500 else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; an error is one line on stderr (JSON with ``--json``)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    options = build_parser(chosen if chosen in COMMANDS else None).parse_args(words)
    try:
        code: int = options.run(options)
    except IsplitError as error:
        if getattr(options, "json", False):
            print(json.dumps(error.to_json(), default=str), file=sys.stderr)
        else:
            print(f"isplit {options.command}: {error.message}", file=sys.stderr)
        return exit_code(error)
    except ModuleNotFoundError as error:
        print(f"isplit {options.command}: {error}. {_missing(error.name)}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:  # a file that an option names: a folder where a file is expected, no permission, a full disk
        if error.filename is None:
            raise
        print(f"isplit {options.command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"isplit {options.command}: interrupted", file=sys.stderr)
        return 130
    return code


def _missing(module: str | None) -> str:
    extras = {
        "onnxruntime": "onnx",
        "torch": "torch",
        "torchvision": "torch",
        "safetensors": "torch",
        "ts": "server",
    }
    extras |= {
        "onnx": "torch",
        "sqlalchemy": "server",
        "matplotlib": "report",
        "timm": "timm",
        "rich": "torch",
    }
    extras |= {
        "model_archiver": "server",
        "yaml": "server",
        "foolbox": "demo",
        "efficientnet_lite_pytorch": "demo",
    }
    root = (module or "").split(".", maxsplit=1)[0]
    return f"Install it with: pip install 'isplit-plugin[{extras.get(root, 'all')}]'"
