"""The web application: routes, documentation pages, limits, and every error in the contract's shape."""

import math
import reprlib

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from data_jobs.errors import InputError
from serve_app import clip_routes, contract, embedding_routes, forms, health_routes, search_routes
from serve_app.access import ApiKeys, Buckets, RateLimit, RateLimitError
from serve_app.dispatch import BusyError
from serve_app.middleware import CLIENT_GONE, BodyLimit, Concurrency, Deadline, RequestIds, Timings
from serve_app.service import Service

_BRING_A_KEY = [
    Security(HTTPBearer(auto_error=False, description="Or X-API-Key.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="Or Authorization: Bearer.")),
]
"""So that OpenAPI tells, and /docs asks, for one; whether it is right is for ApiKeys to say."""


def application(service: Service) -> FastAPI:
    """All routes over `service`; /docs and /redoc work without internet."""
    app: FastAPI = FastAPIOffline(
        title="Catalens",
        summary="Do your pictures say what your words say?",
        responses=contract.refusals(401, 413, 429, 500, 503),  # from the layers around every route
        dependencies=_BRING_A_KEY if service.settings.api_keys else [],
    )
    app.state.service = service
    for routes in (clip_routes, embedding_routes, search_routes, health_routes):
        app.include_router(routes.router)
    app.add_middleware(BodyLimit)
    app.add_middleware(Deadline, seconds=service.settings.deadline_s)
    if service.settings.rate_per_s is not None:
        app.add_middleware(
            RateLimit, buckets=Buckets(service.settings.rate_per_s, service.settings.rate_burst)
        )
    app.add_middleware(ApiKeys, keys=service.settings.api_keys)
    app.add_middleware(Timings)
    app.add_middleware(Concurrency, most=service.settings.most_requests)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_middleware(RequestIds)
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(BackPressureError, _too_busy)
    app.add_exception_handler(RayActorError, _gone)
    app.add_exception_handler(DeploymentUnavailableError, _gone)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _error(
    request: Request, status: int, code: str, message: str, suggestion: str, retry_after_s: float = 1.0
) -> JSONResponse:
    body = contract.ErrorResponse.of(code, message, suggestion, getattr(request.state, "request_id", ""))
    headers = {"Retry-After": str(math.ceil(retry_after_s))} if status in (429, 503) else None
    return JSONResponse(body.model_dump(), status, headers)


async def _input_error(request: Request, error: Exception) -> JSONResponse:
    cause = getattr(error, "cause", error)  # an error of another deployment comes wrapped by Ray
    assert isinstance(cause, InputError)
    return _error(
        request,
        contract.status_of(cause),
        cause.code,
        cause.message,
        cause.suggestion,
        cause.retry_after if isinstance(cause, RateLimitError) else 1,
    )


async def _busy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BusyError)
    wait = math.ceil(error.retry_after_s)
    return _error(
        request, 429, "too_busy", error.message, f"Try again in {wait} s, or send less at once.", wait
    )


async def _too_busy(request: Request, error: Exception) -> JSONResponse:
    return _error(
        request, 429, "too_busy", "The queues are full.", "Try again in a second, or send less at once."
    )


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return _error(request, 503, "not_ready", "A replica has just died; another takes over.", "Try again.")


async def _bad_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first, whole = error.errors()[0], "the request body"
    plainly = forms.said(first, whole, value=False)
    if first["type"] == "bad_batch":
        return _error(request, 422, "bad_batch", f"{plainly}.", "Split them.")
    if first["type"] == "json_invalid":
        told = reprlib.repr(request.headers.get("content-type", ""))
        return _error(
            request, 422, "bad_request",
            f"{plainly}; its content type is {told}.",
            "Send JSON (application/json), or files and fields as multipart/form-data.",
        )  # fmt: skip
    return _error(request, 422, "bad_request", f"{forms.said(first, whole)}.", "See /docs for the fields.")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    method, path = request.method, reprlib.repr(request.url.path)
    if error.status_code == 404:
        return _error(request, 404, "not_found", f"There is no {path} here.", "See /docs for the routes.")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{path} does not take {method}."
        answer = _error(request, 405, "method_not_allowed", message, f"Use {allowed}.")
        answer.headers["Allow"] = allowed
        return answer
    return _error(request, error.status_code, "bad_request", str(error.detail), "See /docs for the fields.")


async def _client_gone(request: Request, error: Exception) -> Response:
    """A body broke off: nobody is there to answer, and the server has not failed."""
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return _error(
        request,
        500,
        "internal_error",
        "Something failed on the server.",
        "Report the request_id to its operator.",
    )
