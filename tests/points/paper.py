"""Reads what is printed in a PDF of ours."""

import base64
import re
import zlib


def printed(pdf: bytes) -> list[str]:
    """Every text in a PDF of ours, in order."""
    texts = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        is_chinese = False
        content = zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True))
        for font, literal in re.findall(rb"/(F\d) \d+ Tf|\(((?:\\.|[^\\)])*)\) Tj", content, re.DOTALL):
            if font:
                is_chinese = font == b"F2"
                continue
            plain = re.sub(rb"\\(\d{3}|.)", lambda m: bytes([int(m[1], 8)]) if m[1].isdigit() else m[1], literal, flags=re.DOTALL)
            texts.append(plain.decode("utf-16-be" if is_chinese else "cp1252"))
    return texts
