"""Texts of several languages read one after another: what is gained on each, and what is lost of the earlier ones."""

from __future__ import annotations

from nestling.recipes.domains.arms import ARMS
from nestling.recipes.domains.run import DomainsPlan, DomainsResult, run_domains
from nestling.recipes.domains.table import draw, markdown
from nestling.recipes.domains.texts import Domain, find_domains

__all__ = ["ARMS", "Domain", "DomainsPlan", "DomainsResult", "draw", "find_domains", "markdown", "run_domains"]
