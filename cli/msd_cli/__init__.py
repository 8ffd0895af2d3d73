"""The command line `msd`: options, one library call, one printed result per command."""
