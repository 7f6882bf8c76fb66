// The list of sandboxes, with filters that stand in the address, page by page.

import { ask } from "/console/api.js";
import { choice, fault, field, link, make, moment, state, table } from "/console/dom.js";
import { STATES } from "/console/overview.js";
import { Pages } from "/console/work.js";

const PAGE_SIZE = 50;
const FILTERS = ["status", "pool", "lab", "owner", "name_prefix"];

export function sandboxes(root, parameters, signal) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const form = make("form", { class: "filters", "aria-label": "Which sandboxes" },
    choice("f-status", "State", wanted.status, [["", "any"], ...STATES.map((one) => [one, one.replaceAll("_", " ")])]),
    field("f-pool", "Pool", wanted.pool), field("f-lab", "Lab", wanted.lab), field("f-owner", "Owner", wanted.owner),
    field("f-name_prefix", "Name begins with", wanted.name_prefix),
    make("p", {}, make("button", { type: "submit", class: "main" }, "Show")));
  const byId = make("form", { class: "filters", "aria-label": "One sandbox" },
    field("f-id", "Or one sandbox, by its id", "", { required: true }), make("p", {}, make("button", { type: "submit" }, "Open")));
  const notice = make("div");
  const list = make("section", { id: "list" });
  const pages = new Pages(() => look());
  root.append(form, byId, notice, list, pages.node);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const words = FILTERS.map((name) => [name, document.getElementById(`f-${name}`).value.trim()]);
    const tail = new URLSearchParams(words.filter(([, value]) => value)).toString();
    const hash = tail ? `#sandboxes?${tail}` : "#sandboxes";
    if (location.hash === hash) pages.go(null, 1);
    else location.hash = hash;
  });
  byId.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#sandbox?${new URLSearchParams({ id: document.getElementById("f-id").value.trim() })}`;
  });

  async function look() {
    try {
      const query = { ...wanted, limit: PAGE_SIZE, cursor: pages.cursor };
      const { body } = await ask("GET", "/v1/admin/sandboxes", { query, signal });
      notice.replaceChildren();
      list.replaceChildren(showList(body));
      pages.show(body.cursor);
    } catch (problem) {
      if (!signal.aborted) notice.replaceChildren(fault(problem));
    }
  }
  look();
}

function showList({ sandboxes: found, cursor }) {
  const rows = found.map((one) => [
    link(one.sandbox_id, "sandbox", { id: one.sandbox_id }), one.name, one.pool, state(one.status), one.allocated_to_track,
    one.track_name, moment(one.expires_at), moment(one.changed_at),
  ]);
  return table("Sandboxes", ["Id", "Name", "Pool", "State", "Owner", "Lab", "Lease ends", "Changed"], rows,
    cursor ? "none on this page, but there are more pages." : "none.");
}
