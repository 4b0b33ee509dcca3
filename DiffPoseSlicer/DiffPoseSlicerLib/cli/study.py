"""Run a study: many cases by several methods, with a table and a page of the results."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options
from .progress import ProgressLine


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("study", metavar="STUDY.toml", help="what to do; docs/studies.md says what it may hold")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder, or one of the same study")
    parser.add_argument("--workers", type=options.count, metavar="N", help="processes here (default one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the work instead")
    parser.add_argument("--no-pictures", action="store_true", help="leave the worst cases' pictures out of the page")


def run(args: argparse.Namespace) -> None:
    """Do what is missing, write the table and the page, print the summary."""
    from ..studies.plan import read_study
    from ..studies.run import run_study
    from ..studies.study_page import summary_lines, write_study_page

    study, folder = read_study(args.study), Path(args.output)
    with ProgressLine() as line:
        rows = run_study(
            study,
            folder,
            workers=args.workers,
            scheduler=args.scheduler,
            on_case=lambda done, total: line(f"{done} of {total} cases"),
        )
    write_study_page(folder / "index.html", study, folder, rows, not args.no_pictures)
    print("\n".join(summary_lines(study, rows)))
    print(f"The page is index.html in {folder.name}, the table cases.csv.")
