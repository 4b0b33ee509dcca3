"""Poses, rigid transforms and the C-arm model: the conventions every other part refers to. numpy only."""
