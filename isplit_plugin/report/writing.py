"""The page of a profile, with what was recommended and served since."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..advice import LiveView
from ..profile import Profile
from ..schema import Recommendation
from .bytes_curve import add_bytes_curve
from .page import Page
from .profile_sections import add_curves, add_measurements, add_provenance, add_summary
from .traffic_sections import add_live_traffic, add_recommendation
from .winners import add_winners

__all__ = ["profile_page", "write_report"]


def write_report(
    path: str | Path,
    profile: Profile,
    *,
    shown_classes: Sequence[int] | None = None,
    recommendations: Sequence[Recommendation] | None = None,
    live: LiveView | None = None,
    title: str | None = None,
) -> Path:
    """Write :func:`profile_page` as one self-contained HTML file and return its path.

    Raises:
        UnknownClassError: the profile has no images of a class in ``shown_classes``.
        ArtifactError: the file cannot be written.
    """
    page = profile_page(
        profile,
        shown_classes=shown_classes,
        recommendations=recommendations,
        live=live,
        title=title,
    )
    return page.write(path)


def profile_page(
    profile: Profile,
    *,
    shown_classes: Sequence[int] | None = None,
    recommendations: Sequence[Recommendation] | None = None,
    live: LiveView | None = None,
    title: str | None = None,
    page: Page | None = None,
) -> Page:
    """The report of a profile as a :class:`Page`, to which sections can be added.

    Parameters:
        shown_classes: ids of the classes whose curves are drawn; by default the five most common.
        recommendations: answers of the endpoint to show.
        live: live traffic to show.
        page: a page to continue; by default a new one.

    Raises:
        UnknownClassError: the profile has no images of a class in ``shown_classes``.
    """
    title = title or f"{profile.model or 'network'}: where to split"
    if page is None:
        page = Page(title, f"network {profile.network_hash[:16]}")
    else:
        page.section(title)
    add_summary(page, profile)
    add_winners(page, profile)
    add_bytes_curve(page, profile)
    for recommendation in recommendations or ():
        add_recommendation(page, profile, recommendation)
    if live is not None:
        add_live_traffic(page, profile, live)
    add_curves(page, profile, shown_classes)
    add_measurements(page, profile)
    add_provenance(page, profile)
    return page
