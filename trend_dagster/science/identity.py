"""What settings share: their model, which decide results, and that no list has a value twice."""

import ast
import inspect
import itertools
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.config import JsonDict

NO_IDENTITY: JsonDict = {"identity": False}
"""``json_schema_extra`` of a setting that decides no result: outputs stay current if it changes."""

UNLESS_DEFAULT: JsonDict = {"identity": "unless default"}
"""Of a setting that came later: outputs from before it stay current while it has its default."""


class Section(BaseModel, frozen=True, extra="forbid"):
    """A section of the settings; the text below a setting is what `trend settings` says of it."""

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Read what each setting means from the text below it.

        Pydantic can do so (`use_attribute_docstrings`) for every model as it is imported, which
        takes a tenth of what `import dagster` does; here it is read when somebody asks.
        """
        (model,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(model, ast.ClassDef)
        found = {name: field.description or "" for name, field in cls.model_fields.items()}
        for setting, below in itertools.pairwise(model.body):
            if isinstance(setting, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(setting.target)] = " ".join(ast.literal_eval(below.value).split())
        return found


def deciding(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that decide results, as JSON can store them."""
    fields = type(settings).model_fields
    elsewhere = {
        name
        for name, field in fields.items()
        if field.json_schema_extra == NO_IDENTITY
        or (field.json_schema_extra == UNLESS_DEFAULT and getattr(settings, name) == field.default)
    }
    return settings.model_dump(mode="json", exclude=elsewhere)


Values = TypeVar("Values", bound=tuple[float, ...])


def no_value_twice(values: Values) -> Values:
    """Refuse a list of settings that names one twice; for pydantic's validators."""
    if len(set(values)) < len(values):
        raise ValueError(f"a list without repeated values, not {list(values)}")
    return values
