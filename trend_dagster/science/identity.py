"""Which settings decide results, and which only where data lies or how fast it is worked on."""

from pydantic.config import JsonDict

NO_IDENTITY: JsonDict = {"identity": False}
"""``json_schema_extra`` of a setting that decides no result: outputs stay current if it changes."""

UNLESS_DEFAULT: JsonDict = {"identity": "unless default"}
"""Of a setting that came later: outputs from before it stay current while it has its default."""
