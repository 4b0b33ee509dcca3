"""``slicer.app.ioManager()``: loading and saving nodes and scenes by file ending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore

_TYPES = {
    ".nrrd": "VolumeFile",
    ".nhdr": "VolumeFile",
    ".nii": "VolumeFile",
    ".nii.gz": "VolumeFile",
    ".mha": "VolumeFile",
    ".mhd": "VolumeFile",
    ".tif": "VolumeFile",
    ".png": "VolumeFile",
    ".dcm": "VolumeFile",
    ".seg.nrrd": "SegmentationFile",
    ".seq.nrrd": "SequenceFile",
    ".h5": "TransformFile",
    ".tfm": "TransformFile",
    ".vtk": "ModelFile",
    ".vtp": "ModelFile",
    ".stl": "ModelFile",
    ".obj": "ModelFile",
    ".ply": "ModelFile",
    ".mrk.json": "MarkupsFile",
    ".fcsv": "MarkupsFile",
    ".mrml": "SceneFile",
    ".mrb": "SceneFile",
    ".csv": "TableFile",
    ".tsv": "TableFile",
    ".txt": "TextFile",
}
_NODE_CLASSES = {
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "SequenceFile": "vtkMRMLSequenceNode",
}


class IOManager(QtCore.QObject):
    """The part of ``qSlicerCoreIOManager`` that ``slicer.util``'s load and save functions call."""

    newFileLoaded = QtCore.Signal(object)
    newFileSaved = QtCore.Signal(object)

    def fileType(self, path: str) -> str:
        endings = sorted(_TYPES, key=len, reverse=True)
        return next((_TYPES[ending] for ending in endings if str(path).lower().endswith(ending)), "NoFile")

    def registeredFileReaderCount(self, file_type: str) -> int:
        return int(file_type in _TYPES.values())

    def fileWriterFileType(self, node: Any) -> str:
        return node.GetClassName()

    def loadNodes(self, file_type: str, parameters: dict[str, Any], loaded: Any = None, _messages: Any = None) -> bool:
        path = str(parameters["fileName"])
        if file_type == "SceneFile":
            return self._load_scene(path, bool(parameters.get("clear", False)))
        if not Path(path).exists():
            return False
        node = self._load(file_type, path, parameters)
        if node is None:
            return False
        if loaded is not None:
            loaded.AddItem(node)
        self.newFileLoaded.emit(parameters)
        return True

    def _load(self, file_type: str, path: str, parameters: dict[str, Any]) -> Any:
        scene = slicer.mrmlScene
        name = parameters.get("name") or Path(path).name.split(".")[0]
        if file_type == "VolumeFile":
            options = 1 if parameters.get("labelmap") else 0
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)
            if node and parameters.get("show", True):
                slicer.util.setSliceViewerLayers(background=node, fit=True)
            return node
        if file_type == "MarkupsFile":
            return scene.GetNodeByID(slicer.modules.markups.logic().LoadMarkups(path, name) or "")
        if file_type == "TransformFile":
            return slicer.modules.transforms.logic().AddTransform(path, scene)
        if file_type == "ModelFile":
            return slicer.modules.models.logic().AddModel(path, slicer.vtkMRMLStorageNode.CoordinateSystemLPS)
        node = scene.AddNewNodeByClass(_NODE_CLASSES[file_type], name)
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        storage.SetFileName(path)
        scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        if storage.ReadData(node):
            return node
        scene.RemoveNode(node)
        return None

    def _load_scene(self, path: str, clear: bool) -> bool:
        scene = slicer.mrmlScene
        if path.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        return bool(scene.Connect() if clear else scene.Import())

    def saveNodes(self, file_type: str, parameters: dict[str, Any], _messages: Any = None) -> bool:
        scene, path = slicer.mrmlScene, str(parameters["fileName"])
        if file_type == "SceneFile":
            if path.lower().endswith(".mrb"):
                return bool(scene.WriteToMRB(path))
            scene.SetURL(path)
            return bool(scene.Commit())
        node = scene.GetNodeByID(parameters["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in parameters:
            storage.SetUseCompression(int(parameters["useCompression"]))
        return bool(storage.WriteData(node))
