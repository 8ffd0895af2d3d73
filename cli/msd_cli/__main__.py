"""`python -m msd_cli`, the form that `accelerate launch -m` needs; also what `msd` runs."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported is one line too."""
    try:
        from msd_cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
