"""Show the main job on a real CT: prepare a model, simulate fluoroscopies, register them, draw pictures."""

from __future__ import annotations

import argparse

from . import options
from .progress import ProgressLine


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--seed", type=options.seed, default=1, metavar="S", help="which fluoroscopies (default 1)")
    parser.add_argument(
        "-o", "--output", default="out/demo", metavar="DIR", help="where pictures go (default out/demo)"
    )
    parser.add_argument("--preset", default="quick", choices=("tiny", "quick", "standard"), help="of the training")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demonstration."""
    from ..evaluation.demo import demo

    with ProgressLine(every=20.0) as line:

        def say(text: str) -> None:
            line.end()
            print(text, flush=True)

        demo(seed=args.seed, out=args.output, device=args.device, preset=args.preset, say=say, show_progress=line)
