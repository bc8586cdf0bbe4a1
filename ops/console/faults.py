"""How an error is told: one line, on a page for people and plain for scripts."""

from flask import Response, g, render_template, request


def from_script() -> bool:
    """Whether htmx or jQuery sent the present request."""
    return "HX-Request" in request.headers or request.headers.get("X-Requested-With") == "XMLHttpRequest"


def told(status: int, line: str) -> Response:
    """Strangers get the line alone."""
    if from_script() or not g.get("user"):
        return Response(f"{line}\n", status, mimetype="text/plain")
    return Response(render_template("error.html", status=status, line=line), status)
