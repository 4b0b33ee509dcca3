"""What the panel says of how far a result can be trusted."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _


def reason(engine: str) -> str:
    """The engine's words for why a registration is not trusted, in the user's language; others as they are."""
    known = {
        "this image seems mirrored or turned against what its file says": _(
            "this image seems mirrored or turned against what its file says"
        ),
        "two poses about one vertebra apart explain the image equally well: compare the vertebrae by eye": _(
            "two poses about one vertebra apart explain the image equally well: compare the vertebrae by eye"
        ),
        "another pose explains the image equally well: compare both in the review": _(
            "another pose explains the image equally well: compare both in the review"
        ),
        "a large part of the image is covered or dark: take the instrument out of the beam or open the collimator": _(
            "a large part of the image is covered or dark: take the instrument out of the beam or open the collimator"
        ),
        "the image shows too little of what the CT holds: centre the C-arm on the anatomy, or use a longer CT": _(
            "the image shows too little of what the CT holds: centre the C-arm on the anatomy, or use a longer CT"
        ),
        "this CT may be another patient's, or the start was too far off: check the patient, give a nearer start": _(
            "this CT may be another patient's, or the start was too far off: check the patient, give a nearer start"
        ),
        "parts of the image fit in different places: the patient may lie otherwise than in the CT, or be another": _(
            "parts of the image fit in different places: the patient may lie otherwise than in the CT, or be another"
        ),
        "the halves of the image do not agree on one pose": _("the halves of the image do not agree on one pose"),
        "the image says too little to be exact: more dose, less scatter or a second view would help": _(
            "the image says too little to be exact: more dose, less scatter or a second view would help"
        ),
        "the image differs from the CT more than its noise explains": _(
            "the image differs from the CT more than its noise explains"
        ),
        "one bone alone was registered, for which trust is not calibrated: judge it by eye": _(
            "one bone alone was registered, for which trust is not calibrated: judge it by eye"
        ),
    }
    return known.get(engine, engine)


def trust_line(result: dict[str, Any], accepted: bool = False) -> tuple[str, str]:
    """(kind, sentence): whether a result may be relied on and how far off it may be, or why it is not trusted."""
    trust = result.get("trust", {})
    if trust.get("trusted"):
        probability = 100 * trust.get("probability", 0)
        sure = _("Trusted, more than 99 %") if probability >= 99 else _("Trusted, {probability:.0f} %")
        kind, text = "good", sure.format(probability=probability)
        error = result.get("expectedErrorMm")
        if error is not None:
            text += " · " + _("error below {error:.1f} mm in 9 of 10 such images").format(error=error)
    else:
        said = "; ".join(reason(words) for words in trust.get("reasons", ())) or _("no reason given")
        kind, text = "bad", _("Not trusted: {reasons}").format(reasons=said)
    if result.get("warnings"):
        kind = "warn" if kind == "good" else kind  # step Review says what it is
    return kind, _("Accepted. {text}").format(text=text) if accepted else text
