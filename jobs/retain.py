"""`xnemo retain`: remove what nobody needs any more; the nightly job. `--dry-run` only tells."""

import sys
from collections.abc import Sequence

from jobs.cli import parser, run

EXAMPLES = """\
  xnemo retain --days 30 --dry-run
  xnemo retain --days 30 --dataset s3://bucket/shards"""


def main(argv: Sequence[str]) -> int:
    options = parser("retain", __doc__ or "", EXAMPLES)
    options.add_argument("--days", type=float, default=30.0, help="age at which ended runs and orphans go (30)")
    options.add_argument("--dataset", action="append", default=[], help="data set to clear of orphans; may be repeated")
    options.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    arguments = options.parse_args(argv)

    from xnemo_platform import registry, retention, storage
    from xnemo_platform.errors import PlatformError
    from xnemo_platform.settings import settings

    if arguments.days < 1:
        raise PlatformError(f"--days {arguments.days:g}: at least 1, or work of today goes.")
    places = settings()
    try:
        kept = frozenset(f"{each['name']}/{each['version']}" for each in registry.aliases())
    except PlatformError as error:
        print(f"cached models are left alone: {error}")
        kept = None
    found, freed, kept_back = retention.leftovers(places.home, arguments.days, arguments.dataset, kept), 0.0, 0
    for each in found:
        print(f"{each.size / 1e6:10.1f} MB  {each.why:<30}  {each.place}")
        try:
            if not arguments.dry_run:
                storage.remove(each.place)
            freed += each.size / 1e9
        except (PlatformError, OSError) as error:  # the others go nevertheless
            kept_back += 1
            print(f"{'':13}  stays: {error}")
    print(f"{len(found) - kept_back} leftovers, {freed:.2f} GB {'would be freed' if arguments.dry_run else 'freed'}")
    return 1 if kept_back else 0


if __name__ == "__main__":
    sys.exit(run(main))
