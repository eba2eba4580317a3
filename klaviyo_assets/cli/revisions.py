"""The verb `revisions`: those that the project knows, and whether Klaviyo has released a newer one.

Klaviyo publishes no list of revisions, but releases its Python SDK with each. The user's own pip is
asked for the newest release, so that its index, proxy and settings count. The release number says
nothing: the revision stands in the package.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.cli.terminal import print_json
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import DEFAULT_REVISION, SUPPORTED_REVISIONS, Settings
from klaviyo_assets.streams import STREAMS

SDK_NAME = "klaviyo-api"

PIP_SECONDS = 60
"""How long pip may take to answer."""

_NEWEST_RELEASE_PATTERN = re.compile(rf"^{SDK_NAME} \((\S+)\)", re.MULTILINE)
_REVISION_PATTERNS = (
    re.compile(rb"_REVISION\s*=\s*[\"'](\d{4}-\d{2}-\d{2})"),
    re.compile(rb"Version of the API: (\d{4}-\d{2}-\d{2})"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRevision:
    """A revision, whether it is used now, and the streams that it offers and others do not."""

    revision: str
    is_used: bool
    is_default: bool
    streams: int
    only_here: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestRelease:
    """What pip said: the SDK's newest release and its revision, or why they are not known."""

    release: str | None = None
    revision: str | None = None
    problem: str | None = None


def list_revisions(settings: Settings, *, offline: bool, as_json: bool) -> int:
    """Print the revisions, and what is newer; the exit code is 0 whatever pip says."""
    known = [describe_revision(each, settings.revision) for each in SUPPORTED_REVISIONS]
    newest = NewestRelease(problem="not asked (--offline)") if offline else find_newest_release()
    is_newer = newest.revision is not None and newest.revision > SUPPORTED_REVISIONS[-1]
    if as_json:
        revisions = [asdict(each) for each in known]
        print_json({"revisions": revisions, "newest": asdict(newest), "is_newer": is_newer})
        return 0
    print_table(
        ["revision", "", "streams", "read at this revision only"],
        [
            (
                each.revision,
                ", ".join(["used"] * each.is_used + ["default"] * each.is_default),
                str(each.streams),
                ", ".join(each.only_here),
            )
            for each in known
        ],
        numbers=["streams"],
    )
    print(describe_newest(newest, is_newer=is_newer))
    return 0


def describe_revision(revision: str, used: str) -> KnownRevision:
    """Return what one of the supported revisions offers; `used` is that of the settings."""
    others = [each for each in SUPPORTED_REVISIONS if each != revision]

    def is_only_here(stream: Stream) -> bool:
        return stream.is_offered_at(revision) and not any(map(stream.is_offered_at, others))

    return KnownRevision(
        revision=revision,
        is_used=revision == used,
        is_default=revision == DEFAULT_REVISION,
        streams=sum(each.is_offered_at(revision) for each in STREAMS.values()),
        only_here=[each.name for each in STREAMS.values() if is_only_here(each)],
    )


def describe_newest(newest: NewestRelease, *, is_newer: bool) -> str:
    """Return what is known of Klaviyo's newest release, as a sentence."""
    if newest.problem is not None:
        return f"Klaviyo's newest revision is not known: {newest.problem}"
    source = f"{SDK_NAME} {newest.release}, Klaviyo's newest SDK"
    if newest.revision is None:
        return f"{source}, does not say its revision in a form that we know"
    if is_newer:
        return (
            f"{source}, speaks {newest.revision}, which is newer than what this version of "
            "klaviyo_assets knows: look for a newer version of it"
        )
    return f"{source}, speaks {newest.revision}: nothing newer is released"


def find_newest_release() -> NewestRelease:
    """Return the SDK's newest release and its revision, by asking pip twice."""
    listed = _run_pip("index", "versions", SDK_NAME)
    if (found := _NEWEST_RELEASE_PATTERN.search(listed or "")) is None:
        return NewestRelease(problem="pip finds no release (no network, or an index without it)")
    release = found[1]
    with TemporaryDirectory() as folder:
        wanted = (f"{SDK_NAME}=={release}", "--dest", folder)
        packages = ("--no-deps", "--only-binary", ":all:")
        if _run_pip("download", "--quiet", *packages, *wanted) is None:
            return NewestRelease(problem=f"pip cannot download {SDK_NAME} {release}")
        revisions = [read_wheel_revision(each) for each in Path(folder).glob("*.whl")]
    return NewestRelease(release=release, revision=next(filter(None, revisions), None))


def _run_pip(*words: str) -> str | None:
    """Return what pip prints; None where it fails, or takes too long."""
    options = ("--disable-pip-version-check", "--no-input", "--retries", "0", "--timeout", "10")
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, with words of our own
            [sys.executable, "-m", "pip", *words, *options],
            capture_output=True,
            check=False,
            text=True,
            timeout=PIP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_wheel_revision(wheel: Path) -> str | None:
    """Return the revision that the modules of a wheel name; None where none does."""
    try:
        with ZipFile(wheel) as packed:
            modules = [packed.read(each) for each in packed.namelist() if each.endswith(".py")]
    except (OSError, BadZipFile):
        return None
    found = (pattern.search(text) for pattern in _REVISION_PATTERNS for text in modules)
    return next((each[1].decode() for each in found if each is not None), None)
