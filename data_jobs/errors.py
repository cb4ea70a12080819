"""The one error type for input that a person can put right.

Every message names the value and the limit; every suggestion names the remedy. Jobs print it and exit 2,
ingest writes it to the rejects table, HTTP answers it as `{"error": {"code", "message", "suggestion"}}`.
"""


class InputError(ValueError):
    """Input that cannot be used.

    `code` is a stable machine-readable reason (snake_case), `message` names the offending value and the
    limit it broke, `suggestion` says what to do about it.
    """

    def __init__(self, code: str, message: str, suggestion: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.suggestion = suggestion

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Survive pickling, so that the error crosses Ray's process borders whole."""
        return (type(self), (self.code, self.message, self.suggestion))

    def __str__(self) -> str:
        return f"{self.message} {self.suggestion}"
