"""Options of the commands that Hydra does not read."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ke_cli.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are those of the house: what is wrong, where, and what to type."""

    def error(self, message: str) -> NoReturn:
        """Refuse arguments.

        Raises:
            UserError: Always.
        """
        argument, _, what = message.removeprefix("argument ").partition(": ")
        is_one = message.startswith("argument ")
        raise UserError(what if is_one else message, where=argument if is_one else None, hint=f"{self.prog} --help")
