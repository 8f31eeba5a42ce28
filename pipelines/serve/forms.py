"""Multipart forms: how OpenAPI describes them, and how their fields become options."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.serve.config import AnimationOptions, MotionOptions
from pipelines.serve.problems import Problem

Options = TypeVar("Options", bound=BaseModel)
FILE = {"type": "string", "format": "binary"}
PORTRAIT = FILE | {"description": "JPEG, PNG, WebP, AVIF, BMP or TIFF."}
DRIVING = FILE | {"description": "mp4, mov, webm, mkv, avi, mpeg, ts, wmv, flv, ogg or gif."}


def _form(required: list[str], fields: dict[str, Any], options: type[BaseModel]) -> dict[str, Any]:
    properties = fields | options.model_json_schema()["properties"]
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


ANIMATION = _form(
    ["portrait"],
    {
        "portrait": PORTRAIT,
        "driving": DRIVING,
        "motion": {"type": "string", "description": "Id of a motion, instead of driving.", "examples": ["0" * 32]},
    },
    AnimationOptions,
)
MOTION = _form(["driving"], {"driving": DRIVING}, MotionOptions)


def options(cls: type[Options], fields: dict[str, str]) -> Options:
    """Form fields as options; a field left empty keeps its default. Raises Problem 422."""
    try:
        return cls.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        first = error.errors()[0]
        raise Problem(422, f"{'.'.join(str(part)[:40] for part in first['loc'])}: {first['msg']}.") from None
