"""Asking a run about conditions that it was not made for: predictions with a verdict, and what to measure next."""

from perturbfm_core.asking.answers import Answers, answer, answer_blocks
from perturbfm_core.asking.opened import OpenedRun, open_run
from perturbfm_core.asking.queries import Asked, Questions, questions, read_questions
from perturbfm_core.asking.suggestions import Suggestions, suggest

__all__ = [
    "Answers",
    "Asked",
    "OpenedRun",
    "Questions",
    "Suggestions",
    "answer",
    "answer_blocks",
    "open_run",
    "questions",
    "read_questions",
    "suggest",
]
