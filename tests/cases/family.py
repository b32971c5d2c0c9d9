"""What must hold of every model family. A subclass describes one; see tests/jobs/test_families.py."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from cases.scans import ScanCounter
from cases.spawned import spawned
from click.testing import CliRunner

from graphlearn.catalog import catalog_tables
from graphlearn.cli import main
from graphlearn.errors import Interrupted, OptionError, UserError
from graphlearn.events import CheckpointSaved, Evaluated, Event, JobFinished, Note, PhaseStarted, Step
from graphlearn.jobs import create as create_module
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.execute import run_here
from graphlearn.jobs.family import Family
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.session import Session, connect
from graphlearn.storage.artifacts import ArtifactStore
