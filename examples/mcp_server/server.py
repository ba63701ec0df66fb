"""Serves facts about installed packages over MCP on stdio; all of them can be looked up by hand."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

CHARACTERS_MAX = 20_000
LICENCE_NAMES = ("licen", "copying", "notice", "authors")

Package = Annotated[str, Field(min_length=1, max_length=100, description="a package's name, as pip knows it")]

server = MCPServer("packages", instructions="Facts about the Python packages that are installed on this machine.")


class DeclaredLicence(BaseModel):
    """What a package's metadata says about its licence, unread and unjudged."""

    package: str
    version: str
    expression: str | None
    """The SPDX expression (PEP 639), where there is one."""
    field: str | None
    """The older free-text field, which may hold a name or a whole licence."""
    classifiers: list[str]


@server.tool()
def declared_licence(package: Package) -> DeclaredLicence:
    """What a package declares as its licence."""
    declared = _found(package).metadata.json
    classifiers = declared.get("classifier", [])
    return DeclaredLicence(
        package=str(declared["name"]),
        version=str(declared["version"]),
        expression=_text(declared.get("license_expression")),
        field=_text(declared.get("license")),
        classifiers=[text for text in classifiers if text.startswith("License")],
    )


@server.tool()
def licence_files(package: Package) -> list[str]:
    """The paths of the licence files that a package brought along."""
    paths = [str(path) for path in _found(package).files or []]
    return sorted(path for path in paths if any(name in path.rsplit("/", 1)[-1].lower() for name in LICENCE_NAMES))


@server.tool()
def read_file(package: Package, path: Annotated[str, Field(max_length=500)]) -> str:
    """The text of a file that a package brought along, cut after 20,000 characters."""
    for file in _found(package).files or []:
        if str(file) == path:  # only what the package itself lists: no path is made up from the argument
            return file.read_text()[:CHARACTERS_MAX]
    raise ToolError(f"{package} has no file {path}")


def _text(field: str | list[str] | None) -> str | None:
    return field[:CHARACTERS_MAX] if isinstance(field, str) else None


def _found(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise ToolError(f"{package} is not installed here") from error


if __name__ == "__main__":
    server.run("stdio")
