"""``python -m landslip.cli``."""

from landslip.cli import main

main()
