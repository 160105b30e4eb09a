"""The executor."""

from .executor import Executor, ExecutorError, Finding, Report, unavailable

__all__ = ["Executor", "ExecutorError", "Finding", "Report", "unavailable"]
