"""Where a DICOM file says the C-arm stood relative to the patient.

Positioner Primary and Secondary Angle are stated relative to the patient (PS3.3 C.8.7.5.1.2): 0/0 when the patient
faces the detector, primary positive towards the patient's left (LAO), secondary positive towards the head (CRA). They
mean the same for a supine, prone or decubitus patient. The detector itself has its top towards the head end of the
table (C.8.19.6.13.1.2), so a patient lying feet first is seen upside down.

Isocenter angles (C.8.19.6.13.1.2) are stated relative to the room and need the patient's position (PS3.17 FFF.1.2.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array, so3_exp

# The patient's left, posterior and head directions in the table's axes (PS3.17 table FFF.1.2.2.2).
POSITIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "HFS": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "HFP": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "HFDR": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "HFDL": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "FFS": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "FFP": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "FFDR": ((0, -1, 0), (-1, 0, 0), (0, 0, -1)),
    "FFDL": ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
}

_POSITION_WORDS = {"S": "supine", "P": "prone", "DR": "on the right side", "DL": "on the left side"}


@dataclass(frozen=True)
class Positioner:
    """The C-arm's orientation relative to the patient, as a file states it.

    Attributes:
        rotation: R0 (3, 3): camera axes (right, down, beam) in RAS, as columns.
        lao_rao, cran_caud: The positioner angles, degrees.
        patient_position: HFS, HFP, ... as stated, or "" where HFS was assumed.
    """

    rotation: Array
    lao_rao: float
    cran_caud: float
    patient_position: str = ""

    def pose(self, center: ArrayLike, carm: CArm) -> Pose:
        """The nominal pose: the isocentre at `center` (RAS mm)."""
        return Pose.about(self.rotation, center, carm)

    @property
    def words(self) -> str:
        """For the user: "LAO 32, CRA 2, head first, supine"."""
        first = f"{'LAO' if self.lao_rao >= 0 else 'RAO'} {round(abs(self.lao_rao), 1):g}"
        second = f"{'CRA' if self.cran_caud >= 0 else 'CAU'} {round(abs(self.cran_caud), 1):g}"
        position = self.patient_position or "HFS"
        lies = f"{'head' if position[0] == 'H' else 'feet'} first, {_POSITION_WORDS[position[2:]]}"
        return f"{first}, {second}, {lies}{'' if self.patient_position else ' (assumed)'}"


def known_position(text: str) -> str:
    """A PatientPosition value, checked; "" for none.

    Raises:
        InputError: it is not one of POSITIONS.
    """
    text = text.strip().upper()
    if text and text not in POSITIONS:
        raise InputError(f"The patient position is {text!r}: use one of {', '.join(POSITIONS)}.")
    return text


def from_patient_angles(primary: float, secondary: float, patient_position: str = "") -> Positioner:
    """From Positioner Primary and Secondary Angle (0018,1510 and 0018,1511), degrees.

    Raises:
        InputError: the patient position is unknown.
    """
    position = known_position(patient_position)
    rotation = view_rotation("PA", primary, secondary)
    if position.startswith("FF"):
        rotation = rotation @ np.diag(
            [-1.0, -1.0, 1.0]
        )  # the table's head end is at the feet: half a turn in the image
    return Positioner(rotation, primary, secondary, position)


def from_isocenter_angles(primary: float, secondary: float, patient_position: str = "") -> Positioner:
    """From Positioner Isocenter Primary and Secondary Angle (0018,9463 and 0018,9464), degrees.

    Raises:
        InputError: the patient position is unknown.
    """
    position = known_position(patient_position)
    # Isocentre axes: X to a head-first supine patient's left, Y down, Z to the head end. At 0/0 the detector is at -Y.
    turned = so3_exp([0, 0, np.deg2rad(primary)]) @ so3_exp([-np.deg2rad(secondary), 0, 0])
    camera = turned @ np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]])  # camera x = -Xp, y = -Zp, z = -Yp
    left, posterior, head = np.array(POSITIONS[position or "HFS"], float)
    ras_from_table = np.stack([-left, -posterior, head])
    rotation = ras_from_table @ camera
    beam = rotation[:, 2]
    lao = float(np.rad2deg(np.arctan2(-beam[0], beam[1])))
    cran = float(np.rad2deg(np.arcsin(np.clip(beam[2], -1, 1))))
    return Positioner(rotation, lao, cran, position)
