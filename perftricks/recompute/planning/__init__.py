"""What to recompute: arithmetic on names and numbers; no framework, and no model, is touched.

::

    Outline (what planning sees of a model) ──cutters──▶ Chain.parts ──planner──▶ Plan
"""
