"""Libraries and documents: what comes in."""

from __future__ import annotations

from headwater.errors.root import Conflict, HeadwaterError, InvalidInput, NotFound, TooLarge


class InvalidJson(InvalidInput):
    code = "invalid_json"


class InvalidDocument(InvalidInput):
    code = "invalid_document"


class UnknownField(InvalidInput):
    code = "unknown_field"


class InvalidVector(InvalidInput):
    code = "invalid_vector"


class DimensionMismatch(InvalidInput):
    code = "dimension_mismatch"


class InvalidLibrary(InvalidInput):
    code = "invalid_library"


class LineTooLong(TooLarge):
    code = "line_too_long"


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class TooManyItems(TooLarge):
    code = "too_many_items"


class TooManyLines(TooLarge):
    code = "too_many_lines"


class LibraryNotFound(NotFound):
    code = "library_not_found"


class DocumentNotFound(NotFound):
    code = "document_not_found"


class LibraryExists(Conflict):
    code = "library_exists"


class DocumentExists(Conflict):
    code = "document_exists"


class VersionMismatch(Conflict):
    code = "version_mismatch"


class EmbedderMismatch(Conflict):
    code = "embedder_mismatch"


class UnsupportedEncoding(HeadwaterError):
    code = "unsupported_encoding"
