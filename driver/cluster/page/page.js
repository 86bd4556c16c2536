// Takes over what the server says is new, opens details without a new page, and says when nothing comes any more.
"use strict";

const byId = (id) => document.getElementById(id);

function fromHtml(html) {
  const template = document.createElement("template");
  template.innerHTML = html; // escaped by the server, and the page's policy runs no script that is within it
  return template.content.firstElementChild;
}

function replaced(old, html) {
  const link = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
  const fresh = fromHtml(html);
  old.replaceWith(fresh);
  if (link) fresh.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
  return fresh;
}

function mark() {
  const at = new URLSearchParams(location.search).get("at");
  for (const link of document.querySelectorAll("a[data-at]")) {
    if (link.dataset.at === at) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

// ---- what is new

function take({ order, pieces }) {
  const nodes = byId("nodes");
  for (const [id, html] of Object.entries(pieces)) {
    const old = byId(id);
    if (old) replaced(old, html);
    else nodes.append(fromHtml(html));
  }
  const wanted = new Set(order);
  for (const node of [...nodes.children]) if (!wanted.has(node.id)) node.remove();
  order.forEach((id, index) => {
    const node = byId(id);
    if (nodes.children[index] !== node) nodes.insertBefore(node, nodes.children[index]);
  });
  mark();
  if (!byId("details").hidden) showDetails();
}

let lost = 0;
const news = new EventSource("/news" + location.search);
news.onmessage = (event) => {
  lost = 0;
  take(JSON.parse(event.data));
};
news.onerror = () => {
  lost = lost || Date.now();
};

setInterval(() => {
  const status = byId("status");
  if (!lost || Date.now() - lost < 3000) return;
  const age = Math.round(Date.now() / 1000 - Number(status.dataset.now));
  status.className = "stale";
  status.textContent = `▲ gpu-dra top has ended or does not answer; the picture is ${age} s old`;
}, 1000);

// ---- details

let asked = 0;

async function showDetails(focus = false) {
  const mine = ++asked;
  const response = await fetch("/details" + location.search).catch(() => null);
  if (!response?.ok || mine !== asked) return;
  const html = await response.text();
  if (mine !== asked) return;
  const panel = byId("details");
  const scrolled = panel.scrollTop;
  const fresh = replaced(panel, html);
  fresh.scrollTop = focus ? 0 : scrolled;
  if (focus) fresh.focus({ preventScroll: true });
}

function look(at) {
  const url = new URL(location.href);
  const before = url.searchParams.get("at");
  if (at) url.searchParams.set("at", at);
  else url.searchParams.delete("at");
  history.replaceState(null, "", url);
  mark();
  showDetails(Boolean(at));
  if (!at && before) document.querySelector(`a[data-at="${CSS.escape(before)}"]`)?.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("a[data-at], a[data-close]");
  if (!link) return;
  event.preventDefault();
  look(link.dataset.at);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("details").hidden) look();
});

// ---- colours

const colour = sessionStorage.getItem("colour");
if (colour) byId(colour).checked = true;
document.addEventListener("change", (event) => {
  if (event.target.name === "colour") sessionStorage.setItem("colour", event.target.id);
});

mark();
