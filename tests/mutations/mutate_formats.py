"""What can be wrong with files of one format: hostile pickles and archives, headers, texts, pictures, arrays, graphs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.mutations.mutate import CANARY, WORDS, of_bytes


class Hostile:
    """Unpickling it makes the canary."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


@of_bytes
def hostile_pickle(data: bytes, rng: Random) -> bytes:
    """A checkpoint of any of PyTorch's formats that asks for code; a changed part of an archive or a whole pickle."""
    payload = pickle.dumps({"model": Hostile()}, protocol=rng.choice((2, 4)))
    buffer = io.BytesIO()
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = payload if rng.random() < 0.5 else content[:2] + payload[2:-1] + b"0" + content[2:]
                target.writestr(entry.filename, content)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=buffer, mode="w:") as target:
            chosen = rng.choice(("pickle", "storages", "tensors"))
            for member in source:
                content = payload if member.name == chosen else source.extractfile(member).read()
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
    else:
        return rng.choice((payload, data[:2] + payload[2:-1] + b"0" + data[2:]))
    return buffer.getvalue()


@of_bytes
def renamed_global(data: bytes, rng: Random) -> bytes:
    """A name that a pickle imports exchanged for one that runs code."""
    matches = list(re.finditer(rb"c[a-z_.0-9]+\n[A-Za-z_0-9]+\n", data))
    if not matches:
        return data[: len(data) // 2]
    match = rng.choice(matches)
    other = rng.choice(
        (b"cos\nmkdir\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nload\n", b"ctorch\nload\n")
    )
    return data[: match.start()] + other + data[match.end() :]


@of_bytes
def hostile_archive(data: bytes, rng: Random) -> bytes:
    """An archive that unpacks to much, leaves its folder, or holds links and devices."""
    buffer = io.BytesIO()
    kind = rng.choice(("bomb", "names", "links", "many", "huge claim"))
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.infolist():
                name = f"../../{entry.filename}" if kind == "names" else entry.filename
                target.writestr(name, bytes(40 << 20) if kind == "bomb" else source.read(entry))
            for number in range(5000 if kind == "many" else 0):
                target.writestr(f"{number}.txt", b"a\n")
        content = buffer.getvalue()
        if kind == "huge claim":
            at = content.rindex(b"PK\1\2") + 24
            content = content[:at] + b"\xf0\xff\xff\xff" + content[at + 4 :]
        return content
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=buffer, mode="w:gz") as target:
        for member in source:
            content = bytes(40 << 20) if kind == "bomb" else source.extractfile(member).read()
            member.name, member.size = (f"/../{member.name}" if kind == "names" else member.name), len(content)
            if kind == "links":
                member.type, member.linkname, member.size = (
                    rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)),
                    "/etc/passwd",
                    0,
                )
            if kind == "huge claim":
                member.size = 1 << 40
                target.fileobj.write(member.tobuf())
                continue
            target.addfile(member, io.BytesIO(content))
        for number in range(5000 if kind == "many" else 0):
            target.addfile(tarfile.TarInfo(f"{number}.txt"))
    return buffer.getvalue()


@of_bytes
def safetensors_header(data: bytes, rng: Random) -> bytes:
    """A number, type or name of the header exchanged, its length kept right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = rng.choice(list(header))
    entry = header[name]
    if name == "__metadata__":
        entry["meta"] = rng.choice(
            ("", "{", "[]", "{}", '{"format_version": 99}', entry["meta"].replace(":", ": -", 1))
        )
    else:
        key = rng.choice(("dtype", "shape", "data_offsets"))
        entry[key] = rng.choice(
            {"dtype": ("F64", "I8", "BF16", "X", "F8_E4M3", 3), "shape": ([], [-1], [2**62, 2**62], [0], "x", [1.5]),
             "data_offsets": ([0, 2**60], [5, 1], [-4, 0], [], [0, 0])}[key]
        )  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@of_bytes
def meta_value(data: bytes, rng: Random) -> bytes:
    """A value of a description in JSON, wherever it lies in the file, exchanged for one of the same length."""
    matches = list(re.finditer(rb'": ?(?:[0-9.]+|"[^"]*"|true|false|null)', data))
    if not matches:
        return data[: len(data) // 3]
    match = rng.choice(matches)
    size = match.end() - match.start() - 2
    value = rng.choice(
        (b"9" * size, b"-" + b"1" * (size - 1), b'"' * min(size, 2), b"[]", b"{}", b"null", b"0", b"true")
    )
    return data[: match.start() + 2] + value.ljust(size)[:size] + data[match.end() :]


@of_bytes
def text(data: bytes, rng: Random) -> bytes:
    """Words and lines of a text file exchanged, doubled, left out, or the whole in another encoding."""
    lines = data.decode("utf-8", "replace").split("\n")
    at = rng.randrange(len(lines))
    words = re.findall(r"[^\s:,]+|.", lines[at]) or [""]
    kind = rng.choice(
        ("word", "word", "word", "word", "double", "drop", "swap", "indent", "encoding", "deep", "laughs", "carriage")
    )
    match kind:
        case "word":
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[at] = "".join(words)
        case "double":
            lines.insert(at, lines[at])
        case "drop":
            del lines[at]
        case "swap":
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case "indent":
            lines[at] = f"  {lines[at]}"
        case "encoding":
            return (
                "\n".join(lines).encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7"))) + b"\xff"
            )
        case "deep":
            lines[at] = f"{lines[at][:5]}{rng.choice('[{(')}" * 1000
        case "laughs":
            lines += ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
        case "carriage":
            return "\r".join(lines).encode()
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def picture(path: Path, rng: Random) -> None:
    """The picture saved in another way: mode, size, orientation, format under the old name, frames."""
    with Image.open(path) as file:
        image = file.copy()
    kind = rng.choice(("mode", "size", "turn", "format", "frames", "value"))
    options: dict = {}
    formats = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF", ".ppm": "PPM"}
    saved_as = formats[path.suffix]
    if kind == "mode":
        image, saved_as = (
            image.convert("RGB").convert(rng.choice(("1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "I;16"))),
            "TIFF",
        )
    elif kind == "size":
        image = image.resize(rng.choice(((1, 1), (1, 999), (47, 40), (40, 48), (3000, 2))))
    elif kind == "turn":
        image, saved_as, exif = image.convert("RGB"), rng.choice(("JPEG", "PNG", "TIFF")), Image.Exif()
        exif[0x0112] = rng.choice((0, 2, 5, 6, 8, 9, 60000))
        options["exif"] = exif
    elif kind == "format":
        image, saved_as = image.convert("RGB"), rng.choice(("JPEG", "PNG", "GIF", "TIFF", "JPEG2000", "ICO", "PDF"))
    elif kind == "frames":
        image, saved_as = image.convert("P"), rng.choice(("GIF", "PNG", "TIFF"))
        options |= {"save_all": True, "append_images": [image.rotate(90, expand=True)]}
    else:
        values = np.array(image)
        values[rng.randrange(len(values)), ...] = rng.choice((0, 1, 20, 21, 77, 254, 255))
        image = Image.fromarray(values)
    image.save(path, format=saved_as, **options)


@of_bytes
def huge_picture(data: bytes, rng: Random) -> bytes:
    """A small PNG, BMP or PPM whose header claims a size that no memory holds."""
    width, height = rng.choice(((2**31 - 1, 1), (60_000, 60_000), (1, 2**31 - 1), (0, 0), (13_000, 13_000)))
    kind = rng.choice(("png", "bmp", "ppm"))
    if kind == "ppm":
        return f"P6 {width} {height} 255\n".encode() + b"abc"
    if kind == "bmp":
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
        return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + head + b"abcdef"

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def array(path: Path, rng: Random) -> None:
    """Arrays of another type, shape or value, or of Python objects; the file stays one of NumPy's."""
    loaded = np.load(path)
    values = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {"": loaded}
    name = rng.choice(list(values))
    value = values[name]
    match rng.choice(("type", "shape", "nan", "objects", "name", "empty")):
        case "type":
            value = value.astype(rng.choice(("f8", "i4", "U8", "c8", "?", ">f2", "M8[s]")))
        case "shape":
            value = rng.choice((value[:0], value[None], value.ravel(), value[..., :-1], value.T, np.float16(1)))
        case "nan":
            value = np.where(np.arange(value.size).reshape(value.shape) == 3, np.float16(np.nan), value)
        case "objects":
            value = np.array([Hostile()], object)
        case "name":
            name = "elsewhere"
        case "empty":
            value = np.zeros((), value.dtype)
    with open(path, "wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **{name: value})
        else:
            np.save(file, value, allow_pickle=True)


def graph(path: Path, rng: Random) -> None:
    """The model with an operator, a weight, a shape, an axis, a version or a property changed."""
    import onnx

    model = onnx.load(path)
    node, weight = rng.choice(model.graph.node), rng.choice(model.graph.initializer)
    match rng.choice(
        (
            "operator",
            "drop",
            "input",
            "weight",
            "outside",
            "type",
            "opset",
            "property",
            "property",
            "output",
            "axis",
            "function",
        )
    ):
        case "operator":
            node.op_type = rng.choice(("Relu", "NoSuchOperator", "Loop", "MatMul", "Identity"))
        case "drop":
            model.graph.node.remove(node)
        case "input":
            node.input[:] = rng.choice((["nowhere"], [], [node.output[0]], list(node.input)[::-1]))
        case "weight":
            weight.raw_data = rng.choice(
                (b"", weight.raw_data[:-4], weight.raw_data * 2, b"\xff" * len(weight.raw_data))
            )
        case "outside":
            weight.ClearField("raw_data")
            weight.data_location = onnx.TensorProto.EXTERNAL
            for key, value in {
                "location": rng.choice(("../parity.json", "/etc/passwd", "x")),
                "offset": "0",
                "length": "9",
            }.items():
                entry = weight.external_data.add()
                entry.key, entry.value = key, value
        case "type":
            weight.data_type = rng.choice((0, 7, 10, 8, 99))
        case "opset":
            model.opset_import[0].version = rng.choice((0, -1, 7, 9999))
        case "property":
            entry = rng.choice(model.metadata_props)
            entry.value = rng.choice((*WORDS, entry.value * 2, "3", "fp16", "int8", "class_ids", "picture"))
        case "output":
            model.graph.output[0].name = rng.choice(("image", "nothing", node.output[0]))
        case "axis":
            axis = rng.choice(model.graph.input[0].type.tensor_type.shape.dim)
            axis.dim_value = rng.choice((0, 1, 7, -1, 2**40))
        case "function":
            node.domain = "com.example"
    path.write_bytes(model.SerializeToString())
