"""The door: parse, call, print; nothing else. Heavy modules are imported inside the commands."""

# isort: off
from landslip.cli.app import app, fail

# In the order of the help.
from landslip.cli import demonstrate, prepare, learn, mapping, assess  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line: one plain message for what goes wrong, exit 1 (data) or 2 (usage)."""
    from landslip.geo.errors import LandslipError, UsageError
    from landslip.geo.quiet import quiet_process

    quiet_process()
    try:
        app()
    except UsageError as error:
        fail(str(error), 2)
    except LandslipError as error:
        fail(str(error), 1)
