"""The errors that a user can act on: each message says what is wrong, where, the value seen and the next step."""


class SweeperError(Exception):
    """Something the user can mend; the command line prints it as one sentence and exits with `exit_code`."""

    exit_code = 2


class ConfigError(SweeperError):
    """A sweep file, a configuration group or an override is wrong."""


class DataError(SweeperError):
    """Text or token files cannot be read or do not fit the model."""


class DiskError(SweeperError):
    """A file cannot be read or written, which may pass; nothing half written is left."""


class TableError(SweeperError):
    """A table of results has no rows, or lacks or misuses a column."""


class FitError(SweeperError):
    """The data admit no fit."""


class LaunchError(SweeperError):
    """Jobs cannot be prepared, started or written down."""
