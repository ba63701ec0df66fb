"""Owns the tests of cleaning, with the words of real licences."""

import pytest

from examples.licence_audit.cleaning import CHARACTERS_MAX, NotTextError, clean, decode

MIT = b"""The MIT License (MIT)

Copyright (c) 2015 Somebody <somebody@example.org>
All rights reserved.

Permission is hereby granted, free of charge, to any person obtaining a copy of
this software, to deal in the Software without restriction.

The above copyright notice shall be included in all copies of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED. IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY CLAIM OR DAMAGES.
"""
BSD = b"""Copyright 2007 Pallets

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are
met:

1.  Redistributions of source code must retain the above copyright
    notice.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS "AS IS" AND ANY EXPRESS
WARRANTIES ARE DISCLAIMED.
"""
APACHE_HEAD = b"""
                                 Apache License
                           Version 2.0, January 2004
                        http://www.apache.org/licenses/

   "License" shall mean the terms and conditions for use, reproduction,
   and distribution as defined by this document.
"""
GPL_HEAD = b"""                    GNU GENERAL PUBLIC LICENSE
                       Version 3, 29 June 2007

 Copyright (C) 2007 Free Software Foundation, Inc. <http://fsf.org/>
 Everyone is permitted to copy and distribute verbatim copies
 of this license document, but changing it is not allowed.
"""
MPL_NOTICE = b"""***** BEGIN LICENSE BLOCK *****
This Source Code Form is subject to the terms of the Mozilla Public License,
v. 2.0. If a copy of the MPL was not distributed with this file, You can obtain
one at http://mozilla.org/MPL/2.0/.
***** END LICENSE BLOCK *****
"""


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(
            MIT,
            "The MIT License (MIT) Permission is hereby granted, free of charge, to any person obtaining a copy of "
            "this software, to deal in the Software without restriction. The above copyright notice shall be included "
            "in all copies of the Software.",
            id="MIT",
        ),
        pytest.param(
            BSD,
            "Redistribution and use in source and binary forms, with or without modification, are permitted provided "
            "that the following conditions are met: 1. Redistributions of source code must retain the above copyright "
            "notice.",
            id="BSD",
        ),
        pytest.param(APACHE_HEAD, "Apache License Version 2.0, January 2004", id="Apache"),
        pytest.param(
            GPL_HEAD,
            "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007 Everyone is permitted to copy and distribute verbatim "
            "copies of this license document, but changing it is not allowed.",
            id="GPL",
        ),
        pytest.param(
            MPL_NOTICE,
            "BEGIN LICENSE BLOCK This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. "
            "If a copy of the MPL was not distributed with this file, You can obtain one at END LICENSE BLOCK",
            id="MPL",
        ),
    ],
)
def test_what_says_something_is_kept(document: bytes, expected: str) -> None:
    # when a document is cleaned, then notices, addresses, definitions and shouted disclaimers are gone
    assert clean(document).text == expected


def test_a_long_text_is_cut_to_its_head_and_its_obligations() -> None:
    # given a long text with an obligation at its end
    filler = b"\n\n".join(b"This paragraph number %d says nothing of interest to anybody." % n for n in range(200))
    document = b"Long License 1.0\n\n" + filler + b"\n\nYou must feed the cat."

    # when it is cleaned
    cleaned = clean(document)

    # then the head and the obligation are there, and it is short
    assert cleaned.text.startswith("Long License 1.0 This paragraph number 0")
    assert cleaned.text.endswith("You must feed the cat.")
    assert len(cleaned.text) <= CHARACTERS_MAX
    assert cleaned.cut


def test_one_endless_sentence_is_cut() -> None:
    assert len(clean(b"word " * 10_000).text) <= CHARACTERS_MAX


@pytest.mark.parametrize("document", [b"", b" \n\n ", b"Copyright (c) 2020 Somebody\n", b"-----\n=====\n"])
def test_nothing_is_left_of_a_document_that_says_nothing(document: bytes) -> None:
    assert clean(document).text == ""


def test_documents_in_old_encodings_are_read() -> None:
    assert decode("Lizenz für alle".encode("cp1252")) == ("Lizenz für alle", "cp1252")
    assert decode("Lizenz für alle".encode("utf-16")) == ("Lizenz für alle", "utf-16")
    assert decode(b"\xef\xbb\xbfLicence") == ("Licence", "utf-8")


@pytest.mark.parametrize("document", [b"\x7fELF\x00\x01", b"\xff\xfea"])
def test_what_is_no_text_is_refused(document: bytes) -> None:
    with pytest.raises(NotTextError):
        decode(document)
