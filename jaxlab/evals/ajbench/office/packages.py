"""Office files as what they are, zip archives of XML, looked at before any library opens them."""

import hashlib
import io
import re
import zipfile

from jaxlab.evals.ajbench.sandbox.limits import ToolError

# Ending -> what the main part's content type says.
KINDS = {
    ".docx": b"wordprocessingml.document.main+xml",
    ".xlsx": b"spreadsheetml.sheet.main+xml",
    ".pptx": b"presentationml.presentation.main+xml",
}
MAX_PARTS = 5_000
MAX_BYTES = 64 << 20  # of all parts, unpacked
# No expression goes past a "<", which stands in no text and no attribute: in a part of many
# beginnings without an end, each would search all the rest.
_TIMES = re.compile(
    rb"<dcterms:(created|modified)\b[^<]*</dcterms:\1>|<cp:lastModifiedBy>[^<]*</cp:"
)
_VALUE = rb"""("[^"<]*"|'[^'<]*')"""
_RELATIONSHIP = re.compile(rb"""<(?:[^<>:\s]+:)?Relationship\b(?:[^<>"']|%b)*>""" % _VALUE)
_ATTRIBUTE = re.compile(rb"""(\s)([^<>="'\s]+)(\s*=\s*)""" + _VALUE)
_ENCODING = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([^"']+)""")


def kind(path: str) -> str:
    """The ending of a path that names an office file.

    Raises:
        ToolError: it names another one.
    """
    ending = f".{path.rpartition('.')[2].lower()}"
    if ending not in KINDS:
        raise ToolError(f"{path!r:.200} is no office file: {', '.join(KINDS)} are read")
    return ending


def check(content: bytes, ending: str) -> None:
    """Refuse what is not an ordinary office file of this kind.

    Sizes are held against the limits before anything is unpacked. An entity can only be declared in
    a document type, which no office file has, and an encoding other than UTF-8 could hide one.

    Raises:
        ToolError: with the cause.
    """
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise ToolError(f"an encrypted or old binary file, no {ending}")
    with _archive(content, ending) as archive:
        types = _part(archive, "[Content_Types].xml", ending)
        if KINDS[ending] not in types:
            raise ToolError(f"its content types are not those of a {ending}")
        for name in archive.namelist():
            if name.endswith((".xml", ".rels", ".vml")):
                _check_xml(_part(archive, name, ending), name)


def without_links(content: bytes, ending: str) -> bytes:
    """The file without its references to other files: images, templates, data that lie outside.

    Hyperlinks stay; nobody follows them by opening the file.
    """
    out = io.BytesIO()
    with _archive(content, ending) as archive, zipfile.ZipFile(out, "w") as target:
        for name in archive.namelist():
            part = _part(archive, name, ending)
            if name.endswith(".rels"):
                part = _RELATIONSHIP.sub(_without_target, part)
            target.writestr(name, part, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def digest(content: bytes, ending: str) -> bytes:
    """SHA-256 of the parts: without the archive's order and times, and those of the last saving.

    Of a file that `check` would refuse for its archive, that of its bytes.
    """
    try:
        with _archive(content, ending) as archive:
            total = hashlib.sha256()
            for name in sorted(archive.namelist()):
                part = _part(archive, name, ending)
                if name == "docProps/core.xml":
                    part = _TIMES.sub(b"", part)
                total.update(f"{name}\0".encode("utf-8", "surrogatepass"))
                total.update(hashlib.sha256(part).digest())
            return total.digest()
    except ToolError:
        return hashlib.sha256(content).digest()


def _archive(content: bytes, ending: str) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception as error:
        raise ToolError(f"no {ending}, or a truncated one: {error}"[:200]) from None
    parts = archive.infolist()
    size = sum(part.file_size for part in parts)
    if len(parts) > MAX_PARTS or size > MAX_BYTES:
        raise ToolError(
            f"unpacks to {size} bytes in {len(parts)} parts; {MAX_BYTES} in {MAX_PARTS} are read"
        )
    if len({part.filename for part in parts}) != len(parts):
        raise ToolError("two of its parts have one name")
    return archive


def _part(archive: zipfile.ZipFile, name: str, ending: str) -> bytes:
    # zipfile reads no more than the size that was declared.
    try:
        return archive.read(name)
    except Exception as error:
        raise ToolError(f"no {ending}, or a damaged one: {error}"[:200]) from None


def _check_xml(part: bytes, name: str) -> None:
    try:
        part.decode("utf-8")
    except UnicodeDecodeError:
        raise ToolError(f"{name:.100} is not in UTF-8") from None
    declared = _ENCODING.match(part.removeprefix(b"\xef\xbb\xbf"))
    if declared and declared[1].lower() not in (b"utf-8", b"us-ascii"):
        raise ToolError(f"{name:.100} is not in UTF-8")
    if b"<!DOCTYPE" in part or b"<!ENTITY" in part:
        raise ToolError(f"{name:.100} declares a document type or entities")


def _without_target(match: re.Match[bytes]) -> bytes:
    found = {entry[2]: entry[4][1:-1] for entry in _ATTRIBUTE.finditer(match[0])}
    # What is written in another way than plainly is taken for the worse.
    internal = found.get(b"TargetMode", b"Internal") == b"Internal"
    if internal or found.get(b"Type", b"").endswith(b"/hyperlink"):
        return match[0]
    return _ATTRIBUTE.sub(_elsewhere, match[0])


def _elsewhere(match: re.Match[bytes]) -> bytes:
    value = b'"about:blank"' if match[2] == b"Target" else match[4]
    return match[1] + match[2] + match[3] + value
