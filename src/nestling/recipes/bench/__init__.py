"""Speed and memory of our memories against attention and installed peers, measured in one run."""

from nestling.recipes.bench.measure import Case, Measurement, Plan, run_cases
from nestling.recipes.bench.report import write_report
from nestling.recipes.bench.subjects import SUBJECTS, available_subjects

__all__ = ["SUBJECTS", "Case", "Measurement", "Plan", "available_subjects", "run_cases", "write_report"]
