"""Bare-metal programs for Cortex-M, as `larq_ensemble.convert.emulation` builds and runs them.

`startup.c` and a linker script make a program of any C with a `main`; newlib's semihosting gives it
the arguments, standard output and files of the machine that emulates the board.
"""
