"""`boltseal admission`: answers the AdmissionReviews of a cluster. HTTP is in `server.admission`.

The mutating webhook replaces each tag by the digest that is proven, and refuses an object with an image that is not. The validating
webhook runs after all mutating ones, and refuses what is not by digest then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from boltseal.commands.admission_images import AdmissionImages
from boltseal.deploy.kube.admission_review import (
    Review,
    Verdict,
    VerdictKind,
    parse_review,
    refuse_too_large,
    review_response,
)

ANSWERS_WITHIN_S: Final = 8.0
"""How long a review takes at most, unless the API server waits for less: its default is ten seconds."""


class AdmissionWebhook:
    """Answers reviews. `log_refusal`: gets one line for each image that is not admitted as it should be.

    Its arguments are the object, the image ("": the object is refused for another reason) and the reason.
    """

    def __init__(self, images: AdmissionImages, log_refusal: Callable[[str, str, str], None]) -> None:
        self._images = images
        self._log_refusal = log_refusal

    async def mutate(self, raw: bytes, within_s: float = ANSWERS_WITHIN_S) -> bytes:
        """Return the response of the mutating webhook. Raises: ReviewInvalid."""
        review = parse_review(raw)
        written = (image.written for image in review.images)
        verdicts = await self._images.judge_all(written, within_s, review.namespace)
        self._log(review, verdicts)
        return review_response(review, verdicts)

    async def validate(self, raw: bytes, within_s: float = ANSWERS_WITHIN_S) -> bytes:
        """Return the response of the validating webhook. It asks no registry. Raises: ReviewInvalid."""
        review = parse_review(raw)
        verdicts = {image.written: self._images.judge_final(image.written) for image in review.images}
        self._log(review, verdicts)
        return review_response(review, verdicts)

    def refuse_too_large(self, beginning: bytes, why: str) -> bytes | None:
        """Return the response to a review that is too large to be read; None: it is no review.

        `beginning`: its first bytes. `why`: in words that follow "its review".
        """
        refused = refuse_too_large(beginning, why)
        if refused is not None:
            self._log_refusal("an object", "", f"its review {why}")
        return refused

    def _log(self, review: Review, verdicts: Mapping[str, Verdict]) -> None:
        if review.unreadable:
            self._log_refusal(review.subject, "", review.unreadable)
        for written, verdict in verdicts.items():
            if verdict.kind in (VerdictKind.REFUSE, VerdictKind.UNCHECKED):
                self._log_refusal(review.subject, written, f"{verdict.kind}: {verdict.reason}")
