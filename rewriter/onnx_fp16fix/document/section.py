"""What all sections of the run document have in common."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Section"]


class Section(BaseModel):
    # A reader of an older version ignores the fields that came later.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
