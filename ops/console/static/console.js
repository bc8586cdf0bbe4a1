// A page that no longer refreshes looks like a quiet one, so it says so.
const gone = (yes) => document.body.classList.toggle("gone", yes);
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
  document.body.addEventListener(name, () => gone(true));
}
document.body.addEventListener("htmx:afterOnLoad", (event) => gone(!event.detail.successful));
