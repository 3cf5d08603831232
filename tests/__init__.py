"""Tests of lmsm_cli, one file a module."""
