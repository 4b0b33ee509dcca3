"""MRML nodes and views: everything that needs Slicer's scene and no Qt."""
