"""The web application without routes: documentation pages, limits, and every error in the contract's shape."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException

from data_jobs.errors import InputError
from serve_app import contract
from serve_app.middleware import BodyLimit, RequestIds

_STATUSES = {
    413: "Too large",
    415: "Not an accepted picture format",
    422: "Cannot be used",
    429: "Too busy; try again",
    503: "Not ready",
}


def application() -> FastAPI:
    """A FastAPI application to hang routes on; its /docs and /redoc work without internet."""
    app: FastAPI = FastAPIOffline(
        title="Catalens",
        summary="Do your pictures say what your words say?",
        responses={
            status: {"model": contract.ErrorResponse, "description": text}
            for status, text in _STATUSES.items()
        },
    )
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestIds)
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(BackPressureError, _too_busy)
    app.add_exception_handler(RayActorError, _gone)
    app.add_exception_handler(DeploymentUnavailableError, _gone)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _error(request: Request, status: int, code: str, message: str, suggestion: str) -> JSONResponse:
    body = contract.ErrorResponse.of(code, message, suggestion, getattr(request.state, "request_id", ""))
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body.model_dump(), status, headers)


async def _input_error(request: Request, error: Exception) -> JSONResponse:
    cause = getattr(error, "cause", error)  # an error of another deployment comes wrapped by Ray
    assert isinstance(cause, InputError)
    return _error(request, contract.status_of(cause), cause.code, cause.message, cause.suggestion)


async def _too_busy(request: Request, error: Exception) -> JSONResponse:
    return _error(
        request, 429, "too_busy", "The queues are full.", "Try again in a second, or send less at once."
    )


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return _error(request, 503, "not_ready", "A replica has just died; another takes over.", "Try again.")


async def _bad_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the request body"
    value = repr(first.get("input"))[:80]
    return _error(
        request, 422, "bad_request", f"{where}: {first['msg']} (got {value}).", "See /docs for the fields."
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return _error(request, error.status_code, code, str(error.detail), "See /docs for routes and fields.")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return _error(
        request,
        500,
        "internal_error",
        "Something failed on the server.",
        "Report the request_id to its operator.",
    )
