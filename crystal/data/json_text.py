"""JSON out of files that other programs wrote, with what is wrong with it in words."""

import json
from typing import Any

from crystal.console import printable


class JsonError(ValueError):
    """Content that cannot be used as JSON; the message says why and what to do, without the file's name."""


def _encoding(data: bytes) -> str:
    """What a text that is not UTF-8 may be: GBK where all its other letters are pairs of high bytes, else Windows'."""
    try:
        data.decode("gb2312")
    except UnicodeDecodeError:
        return "CP1252"
    return "GBK"


def parse_json(data: bytes) -> Any:
    """The value of a JSON file's content in UTF-8, or in UTF-16 or 32 as `json` recognises them.

    Raises:
        JsonError: it is no JSON, is nested too deeply, or is text in an encoding of a country.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise JsonError("is nested too deeply; write it again") from None
    except UnicodeDecodeError:
        name = _encoding(data)
        raise JsonError(
            f"is not in UTF-8, but looks like {name}; convert it, for example with `iconv -f {name} -t UTF-8 FILE`"
        ) from None
    except ValueError as error:  # whole numbers of thousands of digits as well
        raise JsonError(f"is not valid JSON ({printable(str(error), 100)}); write it again") from None
