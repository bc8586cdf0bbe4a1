"""What browsers are told about every answer: nothing from other hosts, no framing, no sniffing, no copy kept."""

import secrets

from flask import Flask, Response, g, request

#: Our own pages: files of our own alone, nothing inline.
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: rq-dashboard's pages have a script inline, compile their templates in the browser and style elements inline.
RELAXED = STRICT.replace("script-src 'self'", "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)


def csp_nonce() -> str:
    """What marks the present answer's own inline script."""
    if "csp_nonce" not in g:
        g.csp_nonce = secrets.token_urlsafe(16)
    return str(g.csp_nonce)


def guard_answers(app: Flask) -> None:
    """Put the headers on every answer of this app."""

    @app.after_request
    def add(response: Response) -> Response:
        policy = RELAXED.format(nonce=g.csp_nonce) if "csp_nonce" in g else STRICT
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not (request.endpoint or "").endswith("static"):
            response.headers["Cache-Control"] = "no-store"
        return response
