"""``plan export``: from a request to the files of its target."""

from __future__ import annotations

from pathlib import Path

from planner.contract.exported import MANIFEST
from planner.contract.provenance import unmeasured
from planner.contract.published import validated
from planner.exports.document import ExportDocument, parse_export
from planner.exports.folder import manifest
from planner.exports.registry import exported
from planner.exports.request import ExportRequest
from planner.exports.target import Asked
from planner.serving.document.contradictions import check_plan
from planner.serving.document.placing import placed
from planner.serving.document.plan import Plan


def export(request: ExportRequest) -> ExportDocument:
    """The answer to ``request``.

    Raises:
        InputError, UnknownName: no such target or release, values that are missing, a plan that contradicts itself.
        Unsupported: what the target cannot express, with targets that can.
    """
    if isinstance(request.plan, Plan):
        check_plan(placed(request.plan))
    return exported_document(request.to, Asked(request.plan, request.values, request.framework, request.assume_version))


def exported_document(to: str, asked: Asked) -> ExportDocument:
    """The files of target ``to``. Raises as :func:`export`."""
    target, files = exported(to, asked)
    made = ExportDocument(
        target=to,
        of=asked.kind,
        plan=asked.document.digest,
        framework=target.framework,
        told=target.said(files),
        next=target.steps(Path("DIR")),
        files={**files, MANIFEST: manifest(to, asked, target.framework, files)},
        provenance=unmeasured(),
    )
    return validated(made, parse_export)
