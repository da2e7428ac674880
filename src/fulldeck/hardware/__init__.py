"""What an accelerator can do and what suits it: profiles, shipped, measured or a user's own."""

from __future__ import annotations

from fulldeck.hardware.detection import Detected, detect
from fulldeck.hardware.profile import Profile, find_profile, shipped_profiles

__all__ = ["Detected", "Profile", "detect", "find_profile", "shipped_profiles"]
