"""Write one page (HTML) of a registration for the patient's file."""

from __future__ import annotations

import argparse

from . import options


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("result", metavar="RESULT", help="result.json")
    parser.add_argument("ct", metavar="CT", help="the CT that was registered")
    parser.add_argument("xrays", metavar="XRAY", nargs="+", help="the X-rays, in the result's order")
    parser.add_argument(
        "--carm", nargs="+", action="extend", metavar="F", help="carm.json: one for all X-rays, or one for each"
    )
    parser.add_argument("--patient", default="", metavar="NAME", help="a name or number to print (default none)")
    parser.add_argument("-o", "--output", required=True, metavar="F", help="the page, .html")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Read everything again and write the page."""
    from ..evaluation.report import write_report
    from ..geometry.files import read_json
    from .register import read_xrays

    target = options.output_file(args.output, (".html",))
    result = read_json(args.result, "result file")
    xrays = read_xrays(args.xrays, args.carm)
    write_report(target, options.read_ct(args.ct), xrays, result, patient=args.patient, device=args.device)
