"""``python -m landslip``: the command line, for launchers such as torchrun."""

from landslip.cli import main

main()
