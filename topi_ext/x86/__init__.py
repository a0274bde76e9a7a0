"""Schedules for x86-64."""
