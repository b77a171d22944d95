"""Placeholder: the compiled core's build goes here."""

from setuptools import setup

setup()
