"""How the fields of a request are asked for on the command line: name, help and panel stand beside the field.

What a field is of, and its default, are the field's own; :mod:`api.cli.options` makes the options."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.serving.frameworks.names import framework_choices


@dataclass(frozen=True)
class Option:
    """In a field's ``Annotated``: the field is an option, too.

    Attributes:
        help: where the field's description, as a sentence, does not say it on a command line.
        panel: heading that the option stands under in ``--help``.
        name: where it is not the field's (``over`` for ``--over``).
        metavar: what stands for the value in ``--help``.
        text: whether it is written with a unit, which the field's type does not show.
        show_default: whether ``--help`` shows the field's default; false where the help says it.
    """

    help: str | None = None
    panel: str | None = None
    name: str | None = None
    metavar: str | None = None
    show_default: bool = True
    text: bool = False

    def said(self, description: str | None) -> str | None:
        """The help of an option whose field has this description."""
        if self.help is not None or description is None:
            return self.help
        text = description.replace("; default: ", ". Default: ").replace(" × ", " x ")
        return f"{text[:1].upper()}{text[1:]}."


ASKED, RESTRICTED, LOAD = "What to plan", "Restrictions", "The load"
"""Headings that several commands have."""

FRAMEWORK_HELP = f"{framework_choices()}."
RELEASE_HELP = f"{framework_choices()}; @RELEASE or @MONTH: vllm@0.19."
