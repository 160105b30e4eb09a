"""The executor."""

from .executor import Executor, unavailable
from .report import ExecutorError, Finding, Report, Traffic

__all__ = ["Executor", "ExecutorError", "Finding", "Report", "Traffic", "unavailable"]
