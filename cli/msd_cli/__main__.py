"""`python -m msd_cli`, the form that `accelerate launch -m` needs."""

from msd_cli.main import main

main()
