"""Texts in a column of tables: Parquet, Arrow (as `datasets` of Hugging Face saves them) and
array_record (as tensorflow-datasets prepares them), a row at a time.

Unlike text a table is known by its name, since its column has to be asked for.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from experiments.data.reading import Source
from experiments.data.streams import decode, plain
from experiments.errors import UserError, shortened
from experiments.plain_json import parse

_NAME = re.compile(r".*\.(parquet|arrow|array_record)(-\d+-of-\d+)?", re.IGNORECASE)
# Of `datasets`, and no rows that were saved.
_INDEX = re.compile(r"(cache|indices|tmp)[^/]*\.arrow")
_TEXT = "tensorflow_datasets.core.features.text_feature.Text"
_ROWS = 1024  # of a Parquet file that are read together


def table_kind(name: str) -> str:
    """ "parquet", "arrow" or "array_record" for a file of this name, "" for what is no table."""
    base = plain(name).rsplit("/", 1)[-1]
    found = _NAME.fullmatch(base)
    return found[1].lower() if found and not _INDEX.fullmatch(base) else ""


def table_texts(source: Source, stream: IO[bytes], column: str) -> Iterator[tuple[str, str]]:
    """(text, where) of the rows of a table whose column has a text; UserError for what is damaged, and
    for a column that is not there or none of text."""
    kind = table_kind(source.name)
    if source.member is not None:
        raise UserError(f"{source}: a table inside an archive; unpack it first")
    read = _records if kind == "array_record" else _rows
    try:
        for number, text in enumerate(read(source, stream, column, kind), 1):
            if text is not None:
                yield text, f"{source}, row {number}"
    except (ValueError, OSError, KeyError, RuntimeError) as error:  # of pyarrow and array_record
        raise UserError(
            f"{source}: damaged or cut short ({shortened(str(error))}); get a new copy"
        ) from error


def _rows(source: Source, stream: IO[bytes], column: str, kind: str) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        table = pq.ParquetFile(stream)
        _check(source, column, _texts_of(table.schema_arrow))
        batches = table.iter_batches(_ROWS, columns=[column])
    else:
        # What `datasets` saves is a stream; a file has an index behind, and begins with its name.
        first = stream.read(6)
        stream.seek(0)
        if first == b"ARROW1":
            file = pa.ipc.open_file(stream)
            schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
        else:
            batches = pa.ipc.open_stream(stream)
            schema = batches.schema
        _check(source, column, _texts_of(schema))
    for batch in batches:
        batch.validate(full=True)  # without it pyarrow reads wherever the file's offsets lead
        yield from batch.column(column).to_pylist()


def _texts_of(schema: Any) -> dict[str, bool]:
    import pyarrow.types as of

    return {
        field.name: of.is_string(field.type) or of.is_large_string(field.type) for field in schema
    }


def _records(source: Source, stream: IO[bytes], column: str, kind: str) -> Iterator[str]:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    _check(source, column, _texts_described(source.path.with_name("features.json")))
    features = tfds.features.FeaturesDict({column: tfds.features.Text()})
    reader = ArrayRecordReader(str(source.path))
    # Its index is at the end: a file that was cut, or is none, raises no error.
    if not reader.num_records():
        raise ValueError("no records")
    for number in range(reader.num_records()):
        (record,) = reader.read([number])
        content = cast(Any, features.deserialize_example_np(record))[column]
        yield decode(content, f"{source}, row {number + 1}")


def _texts_described(path: Path) -> dict[str, bool]:
    """Which columns of records are text. The library would import whatever module the file names, so it
    is not asked. ValueError for what is no description."""
    described = parse(path.read_bytes())
    try:
        features = described["featuresDict"]["features"]
        return {name: of["pythonClassName"] == _TEXT for name, of in features.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} does not describe its features") from error


def _check(source: Source, column: str, texts: dict[str, bool]) -> None:
    """Nothing; UserError where the columns, which are text or not, have none of text of this name."""
    if not texts.get(column):
        what = "is not of text" if column in texts else "is not there"
        names = ", ".join(name for name, is_text in texts.items() if is_text) or "none"
        raise UserError(f"{source}: the column {column!r} {what}; set --column to one of: {names}")
