"""Images in a workload's prompts, as a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costmodels.models.architecture import Architecture
from costmodels.models.images import EncodedImage, encoded_image
from planner.contract.documents import checked
from planner.contract.workload.images import Images
from planner.contract.workload.workload import Workload

if TYPE_CHECKING:
    from costmodels.serving.served_model import PromptImages


def counted(workload: Workload, model: Architecture) -> Workload:
    """``workload`` with the tokens that ``model`` makes of its images.

    Raises:
        Unsupported: the model has no image encoder that is known.
        InputError: its lengths contradict each other then.
    """
    if workload.images is None:
        return workload
    images = workload.images.model_copy(update={"tokens": _encoded(workload.images, model).tokens})
    return checked(Workload, {**workload.model_dump(), "images": images}, "workload")


def prompt_images(workload: Workload, model: Architecture) -> PromptImages | None:
    """The images that engines encode; ``workload``: as :func:`counted` gives it. Raises Unsupported as it does."""
    if workload.images is None:
        return None
    from costmodels.serving.served_model import PromptImages  # memory is told without the cost model

    return PromptImages(_encoded(workload.images, model), workload.images.count / workload.mean_isl)


def _encoded(images: Images, model: Architecture) -> EncodedImage:
    return encoded_image(model, images.width_pixels, images.height_pixels)
