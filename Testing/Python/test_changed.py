"""Patients who are not as their CT shows: what keeps still and what moves."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib import CTVolume, InputError
from DiffPoseSlicerLib.evaluation.changed import bone_moved, largest_bone, random_motion, soft_tissue_deformed
from DiffPoseSlicerLib.geometry.se3 import rotation_angle


@pytest.fixture
def patient() -> CTVolume:
    """Water with textured fat in it, and one bone."""
    k, j, i = np.mgrid[0:40, 0:50, 0:60]
    hu = 40.0 + 60 * np.sin(i / 3) * np.sin(j / 4) * np.cos(k / 3)
    hu[10:20, 20:28, 30:40] = 900
    return CTVolume.from_array(hu.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


def test_soft_tissue_moves_and_bone_stays(patient):
    changed = soft_tissue_deformed(patient, np.random.default_rng(1))
    bone = patient.hu > 200
    assert np.abs(changed.hu - patient.hu)[bone].mean() < 1
    # Far from the bone it is another image, though of the same tissue.
    far = np.s_[30:38, :, :20]
    assert np.abs(changed.hu - patient.hu)[far].mean() > 0.2 * patient.hu[far].std()
    assert changed.hu[far].std() == pytest.approx(patient.hu[far].std(), rel=0.3)


def test_a_bone_moves_as_it_is_told_and_leaves_tissue_behind(patient):
    bone = largest_bone(patient, (0, 0, 0), (1, 1, 1))
    assert bone.sum() == 10 * 8 * 10
    motion = np.eye(4)
    motion[:3, 3] = 6.0, 0.0, -9.0  # two voxels along i, three back along k
    changed = bone_moved(patient, bone, motion)
    assert (changed.hu[7:17, 20:28, 32:42] > 800).all()
    assert (changed.hu[18:20, 20:28, 30:32] < 200).all()
    untouched = np.s_[26:, :, :]
    np.testing.assert_allclose(changed.hu[untouched], patient.hu[untouched])
    with pytest.raises(InputError, match="empty"):
        bone_moved(patient, np.zeros_like(bone), motion)


def test_a_random_motion_is_as_large_as_was_asked():
    motion = random_motion(np.random.default_rng(2), 5.0, 5.0)
    assert np.rad2deg(rotation_angle(motion[:3, :3])) == pytest.approx(5)
    assert 4.9 < np.linalg.norm(motion[:3, 3]) < 5.01
