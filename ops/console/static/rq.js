// Mends rq-dashboard's pages in the browser; runs after its libraries and before its own script.
(() => {
  const told = document.getElementById("told");
  const tell = (line) => { told.textContent = line; told.hidden = !line; };

  // Every change carries the session's token.
  $.ajaxSetup({ headers: { "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content } });

  // Its templates put job texts into the page as they come; only what it escapes itself stays as it is.
  _.templateSettings.escape = /<%[-=]((?!\s*\$\('<div)[\s\S]+?)%>/g;

  // What was put off, or is finished, can be requeued too.
  const registry = $("#select-registry").val();
  const row = document.querySelector("script[name=job-row]");
  if (row && ["scheduled", "finished", "canceled"].includes(registry)) {
    row.textContent = row.textContent.replace(/<% if \(d\.exc_info\) \{ %>(\s*<a [^>]*requeue-job-btn)/, "<% if (true) { %>$1");
  }
  $(document).ajaxSuccess((_event, _answer, _settings, data) => {
    if (data && data.status && data.origin) {
      $("#requeue-job-btn").toggle(["failed", "stopped", "scheduled", "finished", "canceled"].includes(data.status));
    }
  });

  // Its script says nothing of what went wrong.
  $(document).ajaxError((_event, answer, settings) => {
    if (answer.status === 401) location.reload();
    else if (!settings.url.endsWith("/rq/")) tell(answer.responseText || "The console does not answer.");
  });
  $(document).ajaxSuccess((_event, _answer, settings, data) => {
    if (settings.type === "POST") tell(data.count === undefined ? "" : `Done: ${data.count}.`);
  });
})();
