"""Puts the tables of a grid into docs/results.md.

    bev ablate --config occfeat_town --train frames/train --val frames/val --out GRID --jobs 2
    python docs/results.py GRID

The text around the tables stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

_FROM, _TO = '<!-- tables of the grid -->\n', '<!-- end of the tables -->\n'


def main() -> None:
    """Replace what stands between the marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('grid', type=Path, metavar='GRID', help='OUT of `bev ablate`')
    grid = parser.parse_args().grid
    page = Path(__file__).with_name('results.md')
    before, _, rest = page.read_text().partition(_FROM)
    _, _, after = rest.partition(_TO)
    tables = (grid / 'tables.md').read_text().strip().replace('\n## ', '\n### ')
    page.write_text(f'{before}{_FROM}\n{tables}\n\n{_TO}{after}')


if __name__ == '__main__':
    main()
