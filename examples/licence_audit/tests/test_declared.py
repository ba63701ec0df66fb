"""Owns the tests of what packages declare."""

from email.message import Message
from importlib.metadata import PackageMetadata
from typing import cast

import pytest

from examples.licence_audit.declared import declared_kind, declared_licence


def metadata(**fields: str | list[str]) -> PackageMetadata:
    message = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            message[name.replace("_", "-")] = value
    return cast(PackageMetadata, message)


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("MIT", "permissive"),
        ("MIT-0", "permissive"),
        ("BSD 2-Clause License", "permissive"),
        ("Apache Software License", "permissive"),
        ("Apache-2.0 OR BSD-3-Clause", "permissive"),
        ("ISC License (ISCL)", "permissive"),
        ("PSF-2.0", "permissive"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "weak_copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak_copyleft"),
        ("LGPL-2.1-or-later", "weak_copyleft"),
        ("GNU General Public License v2 (GPLv2)", "strong_copyleft"),
        ("AGPL-3.0-only", "strong_copyleft"),
        ("", None),
        ("Proprietary", None),
        ("MIT AND Something-Else", None),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", None),
    ],
)
def test_declarations_stand_for_kinds(declared: str, kind: str | None) -> None:
    assert declared_kind(declared) == kind


@pytest.mark.parametrize(
    ("file", "kind"),
    [("LICENSE-MIT", "permissive"), ("LICENSE-MPL-2.0", "weak_copyleft"), ("LICENSE", None)],
)
def test_a_file_of_a_package_with_several_licences_is_the_one_it_names(file: str, kind: str | None) -> None:
    assert declared_kind("MPL-2.0 AND (Apache-2.0 OR MIT)", f"/somewhere/{file}") == kind


def test_the_clearest_field_speaks() -> None:
    # given packages that say it in three places, then an expression wins, then a short name, then the classifiers
    classifier = ["License :: OSI Approved", "License :: OSI Approved :: MIT License", "Topic :: Other"]
    assert declared_licence(metadata(License_Expression="MIT-0", License="MIT", Classifier=classifier)) == "MIT-0"
    assert declared_licence(metadata(License="BSD", Classifier=classifier)) == "BSD"
    assert declared_licence(metadata(License="Permission is hereby\ngranted", Classifier=classifier)) == "MIT License"
    assert declared_licence(metadata(License="UNKNOWN")) == ""
    assert declared_licence(metadata()) == ""
