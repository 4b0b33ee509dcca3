"""Parses the command line, runs a command and turns what goes wrong into one line and an exit status.

0: done. 2: the input is at fault. 1: a defect of ours. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import Cancelled, InputError
from . import demo, doctor, evaluate, export, pretrain, register, render, report, simulate, study, track

COMMANDS = (render, simulate, pretrain, register, track, evaluate, report, study, export, demo, doctor)
DONE, DEFECT, BAD_INPUT, STOPPED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Reports a wrong option like every other bad input: in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.rstrip('.')}; see {self.prog} --help.")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="python -m DiffPoseSlicerLib",
        description="The pose of a C-arm fluoroscopy relative to a CT.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"DiffPoseSlicer {__version__}")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where in the program an error arose")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary = (command.__doc__ or "").strip().splitlines()[0]
        sub = subparsers.add_parser(
            name, help=summary, description=command.__doc__, parents=[common], allow_abbrev=False
        )
        command.add(sub)
        sub.set_defaults(run=command.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    try:
        args = parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except InputError as error:
        return _report(f"Error: {error}", BAD_INPUT, debug)
    except (KeyboardInterrupt, Cancelled) as error:
        return _report(f"Stopped. {error}".strip(), STOPPED, False)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MemoryError:
        return _report(
            "Error: there is not enough memory for this; close other programs or take a smaller CT.", DEFECT, debug
        )
    except OSError as error:
        if error.filename is None and error.errno is None:  # no file is at fault
            return _defect(error, debug)
        name = f" ({os.path.basename(os.fsdecode(error.filename))})" if error.filename else ""
        return _report(f"Error: {error.strerror or error}{name}.", BAD_INPUT, debug)
    except Exception as error:  # whatever it is, the user gets a line and a status
        return _defect(error, debug)
    return DONE


def _defect(error: Exception, debug: bool) -> int:
    hint = "" if debug else " Run the command again with --debug to see where."
    return _report(f"Defect of DiffPoseSlicer: {type(error).__name__}: {error}.{hint}", DEFECT, debug)


def _report(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    return status
