"""Where a request's picture comes from: uploaded bytes, base64, a data URI, a path or a URL that are allowed."""

from dataclasses import dataclass
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from data_jobs.errors import InputError
from serve_app import contract, local_files, wire
from serve_app.fetch import Fetcher

SMALL = 200_000
"""Base64 up to this many characters is decoded at once; a thread costs as much."""


@dataclass(frozen=True)
class PictureSource:
    """Gets a picture's bytes, at most MAX_FILE_BYTES of them, from wherever the deployment allows."""

    image_root: Path | None = None  # folder below which `image_path` is read
    fetcher: Fetcher | None = None  # of URLs

    async def uploaded(self, file: UploadFile) -> bytes:
        """The bytes of an uploaded file. Raises InputError (file_too_large)."""
        if file.size is not None:
            wire.check_size(file.size)
        return await file.read()

    async def of(self, image: str | None, image_url: str | None, image_path: str | None) -> bytes:
        """The bytes of a picture that is given in exactly one of three ways. Raises InputError."""
        given = [value for value in (image, image_url, image_path) if value is not None]
        if len(given) != 1:
            raise InputError(
                "bad_input",
                f"The picture is given {len(given)} times.",
                "Send exactly one of image, image_url and image_path.",
            )
        if image is not None:
            return await self.encoded(image)
        if image_url is not None:
            return await self.at_url(image_url)
        assert image_path is not None
        return await self.at_path(image_path)

    async def encoded(self, value: str) -> bytes:
        """Base64, a data URI, or a URL. Raises InputError."""
        if value[:8].lower().startswith(("http://", "https://")):
            return await self.at_url(value)
        if len(value) < SMALL:
            return wire.from_base64(value)
        return await run_in_threadpool(wire.from_base64, value)

    async def at_url(self, url: str) -> bytes:
        """The bytes at an allowed URL. Raises InputError (url_not_allowed and what serve_app.fetch raises)."""
        if self.fetcher is None:
            raise InputError(
                "url_not_allowed",
                "This server fetches no URLs.",
                "Send the picture as base64 or data URI, or have the host allowed (image_url_hosts).",
            )
        return await self.fetcher.get(url)

    async def at_path(self, path: str) -> bytes:
        """The bytes of a file below the configured root. Raises InputError as serve_app.local_files does."""
        return await run_in_threadpool(local_files.read_below, self.image_root, path, contract.MAX_FILE_BYTES)
