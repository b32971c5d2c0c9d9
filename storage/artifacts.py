"""Stored models: folders that are created atomically, verified when loaded, and never changed.

    models/<name>/<version>/     manifest.json, and the files it lists with their sizes and SHA-256 (and its own)
    models/<name>/model.json     {"model": "kg.medical", "current": 3}
    models/.staging/             versions being written

A version is written to the staging folder, flushed and renamed into place, which stores it and makes it current. The
model.json inside it then replaces the model's. A process killed at any moment leaves either the old state or the new
one, and so does a full disk, since the two renames need no space. Readers need no lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from graphlearn.errors import (
    ArtifactError,
    JobError,
    ModelNotFound,
    ResourceError,
    UserError,
    WorkspaceError,
    did_you_mean,
)
from graphlearn.storage.files import (
    LONGEST_JSON,
    disk_errors,
    dump_json,
    own_folder,
    read_json,
    sync_file,
    sync_folder,
    write_json,
)
from graphlearn.storage.locks import Staging
from graphlearn.storage.memory import lack_of_memory
from graphlearn.storage.seal import changed, digest, is_measure, measure, sealed, wrong_size
from graphlearn.types import Json

FORMAT_VERSION = 2
"""2: ids and splits are stable, so a version stores what the next one continues. Older versions are not read."""
MANIFEST = "manifest.json"
MODEL = "model.json"

_LONGEST_NAME = 120
_LONGEST_MODEL = 1 << 20
"""Bytes of model.json."""
_SHOWN = 5
"""Versions in a line of text."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_OUTSIDE = re.compile(r"[\\\x00-\x1f\x7f]")
"""What the name of a file in a version never contains."""


@dataclass(frozen=True)
class Artifact:
    """One stored version of a model. `damage` describes what is wrong with it; None if nothing is known to be."""

    model: str
    version: int
    path: Path
    manifest: Json
    damage: str | None = None

    @property
    def versions(self) -> list[int]:
        """The stored versions of the model, oldest first."""
        return sorted(_versions(self.path.parent))


@contextmanager
def reading(artifact: Artifact, *, asked: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong while a version is read into an ArtifactError that names it.

    The digests of a version show that its files are those that its manifest lists, not that they fit together: whoever
    crafted the files computed the digests too. `asked`: errors about a question, which are UserErrors, pass unchanged.
    """
    try:
        yield
    except (WorkspaceError, ResourceError, JobError):
        raise
    except UserError as error:
        if asked:
            raise
        raise unusable(artifact, error.message) from error
    except Exception as error:
        if (known := lack_of_memory(error)) is not None:
            raise known from error
        lines = str(error).splitlines() or [""]
        raise unusable(artifact, f"{type(error).__name__}: {lines[0]}") from error


def unusable(artifact: Artifact, damage: str) -> ArtifactError:
    """The error for a version that is damaged, and what to do about it."""
    written = artifact.manifest.get("format_version")
    others = [version for version in artifact.versions if version != artifact.version]
    if isinstance(written, int) and written > FORMAT_VERSION:
        fix = "upgrade: pip install -U graphlearn"
    elif isinstance(written, int) and written < FORMAT_VERSION:
        fix = "train it again: graphlearn run FILE --force, or CREATE OR REPLACE MODEL"
    else:
        fix = f"train it again with --force, or restore {artifact.path} from a backup"
    also = f"; other versions of it: {newest(others)}" if others else ""
    what = f'model "{artifact.model}" version {artifact.version}'
    return ArtifactError(f"{what} cannot be used: {damage}", help=fix + also)


def newest(versions: Sequence[int]) -> str:
    """The last versions of a list, for a line of text."""
    return ", ".join([*(["…"] if len(versions) > _SHOWN else []), *map(str, versions[-_SHOWN:])])


def check_length(model: str, statement: str, inputs: Mapping[str, str]) -> None:
    """Raise UserError if a statement is too long to be stored with its model."""
    length = len(dump_json([statement, inputs]).encode("utf-8", "replace"))
    if length > LONGEST_JSON // 2:
        raise UserError(
            f"the statement of model {model} is too long to be stored with it: {length:,} bytes",
            help="put its values into a table or a file, and select from that",
        )


def fold(model: str) -> str:
    """The model name in the form that DuckDB compares: ASCII letters in lower case."""
    return model.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")  # bytes: ASCII only


def folder_name(model: str) -> str:
    """A folder name for the model: special characters are percent-encoded, and long names end in a digest."""
    name = quote(fold(model), safe="", errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(fold(model).encode(errors="surrogatepass")).hexdigest()
        name = f"{name[: _LONGEST_NAME - 34]}~{digest[:32]}"
    return name


class Staged:
    """A version being written: fill `path`, then `commit`."""

    def __init__(self, store: ArtifactStore, model: str, path: Path) -> None:
        self.path = path
        self.version: int | None = None
        self._store = store
        self._model = model

    def commit(self, manifest: Json) -> int:
        """Publish the files in `path` as the model's new current version, with these keys in its manifest.

        Returns the version, counted from 1. Raises WorkspaceError if the disk is full or not writable; then nothing
        has changed.
        """
        if self.version is not None:
            raise RuntimeError("this version is already committed")
        store, model = self._store, self._model
        home = store.folder / folder_name(model)
        with disk_errors(home):
            files = {name: measure(self.path / name) for name in _list_files(self.path)}
            mode = self.path.stat().st_mode & 0o666  # of a new file under this umask; safetensors makes files private
            for name in files:
                (self.path / name).chmod(mode)
                sync_file(self.path / name)
            for folder in {(self.path / name).parent for name in files}:
                sync_folder(folder)
            own_folder(home)
            while True:
                version = max(_versions(home), default=0) + 1
                own: Json = {
                    "format_version": FORMAT_VERSION,
                    "model": model,
                    "version": version,
                    "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "files": files,
                }
                write_json(self.path / MANIFEST, sealed({**manifest, **own}))
                write_json(
                    self.path / MODEL, {"model": model, "current": version}
                )  # no disk space is needed after this
                try:
                    os.rename(self.path, home / str(version))
                except OSError:
                    if (home / str(version)).exists():  # another process was faster
                        continue
                    raise
                break
            os.replace(home / str(version) / MODEL, home / MODEL)
            sync_folder(home)
            sync_folder(store.folder)
        self.version = version
        return version


class ArtifactStore:
    """The stored models of a workspace folder. Nothing is created on disk before the first `stage`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the workspace folder; models are stored in its subfolder models/."""
        self.folder = Path(folder) / "models"
        self._staging = Staging(self.folder / ".staging")
        self._verified: dict[Path, tuple[int, int]] = {}

    @contextmanager
    def stage(self, model: str) -> Iterator[Staged]:
        """A new folder to write a version to, removed at the end of the block unless committed.

        Raises WorkspaceError if the disk is full or not writable, also for failures inside the block.
        """
        if not model or "\0" in model:
            raise UserError("a model needs a name", help='e.g. CREATE MODEL medical, or "my model" in quotes')
        with disk_errors(self.folder), self._staging.claim() as path:
            path.mkdir()
            yield Staged(self, model, path)

    def exists(self, model: str) -> bool:
        """Whether a version of the model is stored."""
        return bool(_versions(self._home(model)))

    def versions(self, model: str) -> list[Artifact]:
        """All versions, oldest first, without verifying their files. Raises ModelNotFound."""
        found = list(self._all(self._home(model)))
        if not found:
            raise self._not_found(model)
        return found

    def history(self, artifact: Artifact) -> Iterator[Artifact]:
        """All versions of a model, oldest first, without verifying their files, even if its name cannot be read."""
        return self._all(artifact.path.parent)

    def _all(self, home: Path) -> Iterator[Artifact]:
        return (self._glance(home, version) for version in sorted(_versions(home)))

    def current(self, model: str) -> Artifact:
        """The current version, without verifying its files. Raises ModelNotFound."""
        home = self._home(model)
        version = _current(home)
        if version is None:
            raise self._not_found(model)
        return self._glance(home, version)

    def make_current(self, model: str, version: int) -> Artifact:
        """Make a stored version current again. Raises ModelNotFound, or ArtifactError if it is damaged."""
        artifact = self.load(model, version)
        home = self._home(model)
        with disk_errors(home):
            for newer in _versions(home):
                if newer > version and not (home / str(newer)).is_symlink():
                    (home / str(newer) / MODEL).unlink(missing_ok=True)  # left by a crash, see _current
            write_json(home / MODEL, {"model": artifact.model, "current": version})
        return artifact

    def models(self) -> Iterator[Artifact]:
        """The current version of every model, by name, without verifying files. See `damage` for damaged ones.

        They are read one at a time, since their manifests can take a lot of memory.
        """
        if not self.folder.is_dir():
            return
        for home in sorted(self.folder.iterdir(), key=lambda home: fold(unquote(home.name))):
            if home.name.startswith(".") or not home.is_dir():
                continue
            found = None
            with suppress(WorkspaceError):  # a model that may not be read is left out
                current = _current(home)
                found = None if current is None else self._glance(home, current)
            if found is not None:
                yield found

    def load(self, model: str, version: int | None = None) -> Artifact:
        """A version (None: the current one), verified: format, sizes and SHA-256 of every file.

        A digest is computed once per file and store, and again when its time or size changes. Raises ModelNotFound, or
        ArtifactError naming the damaged file.
        """
        home = self._home(model)
        for attempt in (1, 2):
            chosen = _current(home) if version is None else version
            if chosen is None:
                raise self._not_found(model)
            if chosen not in _versions(home):
                known = sorted(_versions(home))
                if not known:
                    raise self._not_found(model)
                if version is None and attempt == 1:
                    continue  # replaced and pruned in the meantime
                raise ModelNotFound(f'model "{model}" has no version {chosen}', help=f"its versions: {newest(known)}")
            artifact = self._glance(home, chosen)
            if artifact.damage is None:
                artifact = self._verify(artifact)
            if artifact.damage is None:
                return artifact
            if (home / str(chosen)).exists():
                raise unusable(artifact, str(artifact.damage))
        raise self._not_found(model)

    def drop(self, model: str) -> None:
        """Remove a model and all its versions, atomically for readers. Raises ModelNotFound."""
        home = self._home(model)
        if not home.is_dir():
            raise self._not_found(model)
        with disk_errors(home), self._staging.claim() as path:
            os.rename(home, path)
            sync_folder(self.folder)

    def prune(self, model: str, keep: int = 2) -> list[int]:
        """Remove all but the newest `keep` versions and the current one. Returns the removed versions."""
        home = self._home(model)
        current = _current(home)
        if current is None:
            raise self._not_found(model)
        with disk_errors(home):
            own_folder(home)
        newest = sorted(_versions(home))
        removed = [version for version in newest[: max(0, len(newest) - max(keep, 1))] if version != current]
        for version in removed:
            with disk_errors(home), self._staging.claim() as path:
                os.rename(home / str(version), path)
        return removed

    def _home(self, model: str) -> Path:
        return self.folder / folder_name(model)

    def _not_found(self, model: str) -> ModelNotFound:
        names = [artifact.model for artifact in self.models()]
        text = did_you_mean(model, names) if names else "no model is stored yet; create one with CREATE MODEL"
        return ModelNotFound(f'there is no model "{model}"', help=text)

    def _glance(self, home: Path, version: int) -> Artifact:
        """The version with its manifest; only the presence and size of the files are checked."""
        path = home / str(version)
        linked = next((folder for folder in (home, path) if folder.is_symlink()), None)
        if linked is not None:
            name = unquote(home.name) if linked == home else _model_name(home)
            return Artifact(name, version, path, {}, f"{linked} is a symbolic link")
        try:
            manifest = read_json(path / MANIFEST)
        except FileNotFoundError:
            return Artifact(_model_name(home), version, path, {}, f"{MANIFEST} is missing")
        except (OSError, ValueError, MemoryError) as error:
            reason = "it does not fit in memory" if isinstance(error, MemoryError) else error
            return Artifact(_model_name(home), version, path, {}, f"{MANIFEST} is unreadable ({reason})")
        written = manifest.get("format_version")
        damage = None
        if not isinstance(written, int):
            damage = f"{MANIFEST} lacks format_version"
        elif written > FORMAT_VERSION:
            damage = f"its format {written} is newer than this version of GraphLearn reads ({FORMAT_VERSION})"
        elif written < FORMAT_VERSION:
            damage = f"its format {written} is older than this version of GraphLearn reads ({FORMAT_VERSION})"
        elif sealed(manifest) != manifest:
            damage = changed(MANIFEST)
        elif (wrong := _wrong_key(manifest, home)) is not None:
            return Artifact(_model_name(home), version, path, {}, f"{MANIFEST} has an invalid {wrong}")
        else:
            sizes = ((name, path / name, expected["bytes"]) for name, expected in manifest["files"].items())
            damage = next((problem for name, file, size in sizes if (problem := wrong_size(file, name, size))), None)
        known = manifest["model"] if damage is None else _model_name(home)
        return Artifact(known, version, path, manifest, damage)

    def _verify(self, artifact: Artifact) -> Artifact:
        if (damage := wrong_object(artifact.manifest) or _foreign(artifact.path)) is not None:
            return Artifact(artifact.model, artifact.version, artifact.path, artifact.manifest, damage)
        for name, expected in artifact.manifest["files"].items():
            damage = self._check_file(artifact.path, name, expected)
            if damage is not None:
                return Artifact(artifact.model, artifact.version, artifact.path, artifact.manifest, damage)
        return artifact

    def _check_file(self, folder: Path, name: str, expected: Json) -> str | None:
        try:
            path = folder / name
            wrong = wrong_size(path, name, expected["bytes"])
            if wrong is not None:
                return wrong
            status = path.stat()
            state = (status.st_mtime_ns, status.st_size)
            if self._verified.get(path) != state:
                if digest(path) != expected["sha256"]:
                    return changed(name)
                self._verified[path] = state
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} is unreadable ({error.strerror})"
        return None


def _wrong_key(manifest: Json, home: Path) -> str | None:
    """The key of a manifest whose value cannot be what we wrote, None if all are sound."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_file(name, file) for name, file in files.items()):
        return "files"
    model = manifest.get("model")
    return None if isinstance(model, str) and folder_name(model) == home.name else "model"


def wrong_object(manifest: Json) -> str | None:
    """What is wrong with the keys of a manifest that must be JSON objects or texts, None if nothing is."""
    kinds: dict[str, type] = dict.fromkeys(("options", "inputs", "metrics", "counts"), dict)
    texts = ("family", "statement", "fingerprint", "run", "verdict", "protocol", "created_at")
    kinds |= dict.fromkeys(texts, str)
    wrong = (key for key, kind in kinds.items() if key in manifest and not isinstance(manifest[key], kind))
    found = next(wrong, None)
    return None if found is None else f"{MANIFEST} has an invalid {found}"


def _is_file(name: str, file: object) -> bool:
    """Whether a name stays inside the version's folder, and size and digest are what they are called."""
    inside = not _OUTSIDE.search(name) and all(part not in ("", ".", "..") for part in name.split("/"))
    return inside and is_measure(file)


def _versions(home: Path) -> set[int]:
    """The stored versions of a model. Raises WorkspaceError if its folder may not be read."""
    try:
        return {int(entry.name) for entry in home.iterdir() if _VERSION.fullmatch(entry.name)}
    except PermissionError:
        raise WorkspaceError(f"{home} is not readable", help="check its owner and permissions") from None
    except OSError:
        return set()


def _current(home: Path) -> int | None:
    """The version that model.json names, unless a newer one still has its own (a crash between the two renames).

    The newest version if there is no usable model.json.
    """
    versions = _versions(home)
    try:
        current = read_json(home / MODEL, longest=_LONGEST_MODEL).get("current")
    except (OSError, ValueError):
        current = None
    if type(current) is not int or current not in versions:
        return max(versions, default=None)
    newer = [home / str(version) for version in versions if version > current]
    return max((int(v.name) for v in newer if (v / MODEL).exists() and not v.is_symlink()), default=current)


def _model_name(home: Path) -> str:
    try:
        name = read_json(home / MODEL, longest=_LONGEST_MODEL)["model"]
        if not isinstance(name, str) or folder_name(name) != home.name:
            raise KeyError(name)
        return name
    except (OSError, ValueError, KeyError):
        return unquote(home.name)


def _list_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path not in (folder / MANIFEST, folder / MODEL)
    )


def _foreign(folder: Path) -> str | None:
    """The problem with a version's folder that contains a link, a pipe or a device; None if it does not."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # model.json of a version that is being published moves to the model's folder
                continue
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                return f"{path.relative_to(folder)} is neither a regular file nor a folder"
    return None
