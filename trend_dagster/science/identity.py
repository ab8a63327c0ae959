"""Which settings decide results, and which only where data lies or how fast it is worked on."""

from pydantic.config import JsonDict

NO_IDENTITY: JsonDict = {"identity": False}
"""``json_schema_extra`` of a setting that decides no result: outputs stay current if it changes."""
