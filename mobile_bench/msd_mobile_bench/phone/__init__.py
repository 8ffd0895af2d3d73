"""Measure exports on an Android phone through adb, with the runtimes' own benchmark tools."""
