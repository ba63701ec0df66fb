"""Owns the tests of finding documents."""

from pathlib import Path

from examples.licence_audit.documents import Document, Found, in_folder, installed, select


def test_the_packages_installed_here_have_licences() -> None:
    # when the environment is searched
    found = installed()

    # then known packages are there with what they declare, each text once, and every file can be read
    packages = {document.package: document for document in found.documents}
    assert packages["aiokafka"].declared == "Apache-2.0"
    assert len({Path(document.path).read_bytes() for document in found.documents}) == len(found.documents)


def test_a_folder_is_searched_for_texts(tmp_path: Path) -> None:
    # given texts, a copy, a hidden file and a binary one
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("MIT License")
    (tmp_path / "below" / "b.md").write_text("MIT License")
    (tmp_path / "c.txt").write_bytes("für".encode("cp1252"))
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0")

    # when it is searched
    found = in_folder(tmp_path)

    # then each text is there once, and nothing is known of its licence
    assert [document.package for document in found.documents] == ["a.txt", "c.txt", "empty"]
    assert {document.declared for document in found.documents} == {""}
    assert (found.duplicates, found.skipped) == (1, 1)


def test_a_few_documents_show_many_licences() -> None:
    # given many of one licence and few of others
    licences = ["MIT", "MIT", "MIT License", "MPL-2.0", "", "BSD"]
    documents = tuple(Document(f"/{n}", f"package-{n}", "1", licence) for n, licence in enumerate(licences))
    found = Found(documents, 0, 0)

    # when few are selected, then the families take turns; without a limit all are taken in order
    assert [document.declared for document in select(found, 4).documents] == ["", "BSD", "MIT", "MPL-2.0"]
    assert select(found, None).documents == documents
    assert select(found, 0 + len(documents)).documents == documents


def test_the_input_is_what_the_workflow_takes() -> None:
    document = Document("/licence", "package", "1.0", "MIT")
    assert select(Found((document,), 0, 0), 1).input() == {
        "documents": [{"path": "/licence", "package": "package", "version": "1.0", "declared": "MIT"}]
    }
