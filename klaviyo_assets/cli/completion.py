"""The verb `completion`: what a shell runs to complete our verbs and options."""

from click.shell_completion import get_completion_class

from klaviyo_assets.cli.verbs import COMMAND, COMPLETION_VARIABLE, PROGRAM
from klaviyo_assets.settings import Settings


def print_completion(_settings: Settings, *, shell: str) -> int:
    """Print the script of a shell."""
    if (completion := get_completion_class(shell)) is not None:
        print(completion(COMMAND, {}, PROGRAM, COMPLETION_VARIABLE).source())
    return 0
