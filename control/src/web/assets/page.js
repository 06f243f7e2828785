// Shows what the director says of itself, every two seconds.

import { duration, short, time } from "./format.js";
import { draw, figure, KINDS } from "./plot.js";

const INTERVAL = 2000;
const PATIENCE = 8000;
const PAGE = 25;
const MOST_EVENTS = 200;

const byId = (id) => document.getElementById(id);
const state = { offset: 0, open: null, event: 0, matched: 0 };

/** An element with a class and text; text is never taken for HTML. */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function row(cells) {
  const tr = element("tr");
  for (const cell of cells) {
    const [text, className] = Array.isArray(cell) ? cell : [cell, ""];
    tr.append(element("td", className, text));
  }
  return tr;
}

/** Keeps one child of `parent` for each of `items`, in their order. */
function keep(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === before) {
      before = before.nextElementSibling;
    } else {
      parent.insertBefore(child, before);
    }
    update(child, item);
  }
  for (const gone of known.values()) gone.remove();
}

function plots() {
  const all = element("div", "plots");
  for (const [kind, caption] of KINDS) all.append(figure(kind, caption));
  return all;
}

function drawAll(parent, plot, rate) {
  KINDS.forEach(([kind, , unit], i) => {
    draw(parent.children[i], plot.map((point) => point[kind]), rate[kind], unit);
  });
}

function showTotals(view) {
  const tiles = byId("totals");
  if (!tiles.children.length) {
    for (const [kind, caption] of KINDS) {
      const tile = element("div", "tile");
      tile.append(figure(kind, caption === "new" ? "new connections" : caption));
      tiles.append(tile);
    }
    const tile = element("dl", "tile");
    tile.append(element("dt", "", "connections"), element("dd"), element("dt", "", "servers that fail their checks"), element("dd"));
    tiles.append(tile);
  }
  KINDS.forEach(([kind, , unit], i) => {
    draw(tiles.children[i].firstChild, view.plot.map((point) => point[kind]), view.rate[kind], unit);
  });
  const [connections, down] = tiles.lastChild.querySelectorAll("dd");
  connections.textContent = `${short(view.connections)} of ${short(view.capacity)}`;
  down.textContent = view.servers_down;
  down.className = view.servers_down ? "down" : "";
}

function makeService(service) {
  const card = element("div", "card service");
  const head = element("button", "head");
  head.type = "button";
  head.addEventListener("click", () => {
    state.open = state.open === service.name ? null : service.name;
    poll();
  });
  head.append(element("b"), element("span", "soft"), element("span", "servers"));
  card.append(head, plots(), element("div", "scroll"));
  return card;
}

function updateService(card, service) {
  const [name, about, servers] = card.firstChild.children;
  name.textContent = service.name;
  about.textContent = `${service.scheduler}, ${short(service.connections)} connections`;
  servers.textContent = service.down ? `${service.servers - service.down} of ${service.servers} servers up` : `${service.servers} servers`;
  servers.className = service.down ? "servers down" : "servers";
  card.firstChild.setAttribute("aria-expanded", state.open === service.name);
  drawAll(card.children[1], service.plot, service.rate);
  const place = card.children[2];
  if (!service.list.length) {
    place.replaceChildren();
    return;
  }
  const table = element("table");
  const titles = element("tr");
  for (const [title, className] of [["Server"], ["Health"], ["Method"], ["Weight", "n"], ["Active", "n"], ["Inactive", "n"], ["Began", "n"], ["Packets", "n"], ["Bytes", "n"], ["Drops", "n"]]) {
    titles.append(element("th", className, title));
  }
  table.append(titles);
  for (const server of service.list) {
    const health = server.health;
    const said = health ? `${health.state} since ${time(health.since_ms)}: ${health.reason}` : "not checked";
    const className = health ? health.state : "soft";
    table.append(row([
      server.address, [said, className], server.method ?? "taken out",
      ...[server.weight, server.active, server.inactive].map((n) => [String(n), "n"]),
      ...[server.totals.connections, server.totals.packets, server.totals.bytes, server.totals.drops].map((n) => [short(n), "n"]),
    ]));
  }
  place.replaceChildren(table);
}

function showServices(page) {
  state.matched = page.matched;
  const last = Math.min(state.offset + page.list.length, page.matched);
  byId("matched").textContent = page.matched
    ? `${state.offset + 1} to ${last} of ${page.matched}` + (page.matched < page.total ? `, ${page.total} in all` : "")
    : page.total ? `none of ${page.total} matches` : "none";
  byId("previous").disabled = state.offset === 0;
  byId("next").disabled = last >= page.matched;
  keep(byId("services"), page.list, (service) => service.name, makeService, updateService);
}

function showWorkers(workers) {
  const make = () => {
    const card = element("div", "card worker");
    card.append(element("div", "head"), plots());
    return card;
  };
  keep(byId("workers"), workers.map((worker, number) => ({ ...worker, number })), (worker) => String(worker.number), make, (card, worker) => {
    card.firstChild.replaceChildren(
      element("b", "", `worker ${worker.number}`),
      element("span", "soft", `${short(worker.connections)} connections, received ${short(worker.received)}, sent ${short(worker.transmitted)}, ` +
        `dropped ${short(worker.dropped)}, left to the kernel ${short(worker.punted)}, handed over ${short(worker.handed)}`),
    );
    drawAll(card.children[1], worker.plot, worker.rate);
  });
}

function showSync(sync) {
  const place = byId("sync");
  const lines = [];
  if (sync.role) lines.push(element("p", "", `This director is ${sync.role}.`));
  if (!sync.peers.length) lines.push(element("p", "soft", "There is no other director."));
  for (const peer of sync.peers) {
    const lag = peer.lag === null ? "" : `, ${peer.lag.toFixed(3)} s behind`;
    lines.push(element("p", peer.connected ? "up" : "down",
      `${peer.name}: ${peer.state}${lag}; sent ${short(peer.sent)}, received ${short(peer.received)}, lost ${short(peer.lost)}`));
  }
  place.replaceChildren(...lines);
}

function showEvents(events) {
  const list = byId("events");
  for (const event of events) {
    const item = element("li");
    item.append(element("span", "soft", time(event.time_ms)), element("span", event.severity, event.severity),
      element("span", "soft", event.kind), element("span", "", event.text));
    list.prepend(item);
    state.event = Math.max(state.event, event.number);
  }
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

function show(view) {
  const about = byId("about");
  about.textContent = `${view.version}, up ${duration(view.uptime)}, ${time(view.time_ms)}`;
  about.className = "";
  showTotals(view);
  showServices(view.services);
  showWorkers(view.workers);
  byId("interfaces").tBodies[0].replaceChildren(...view.interfaces.map((i) => row([
    i.name, i.up ? ["up", "up"] : ["down", "down"], i.xdp, i.socket, i.answers, [short(i.received), "n"], [short(i.transmitted), "n"],
  ])));
  byId("drops").tBodies[0].replaceChildren(...(view.drops.length
    ? view.drops.map((drop) => row([drop.reason, [drop.count.toLocaleString("en"), "n"]]))
    : [row([["Nothing was dropped.", "soft"]])]));
  showSync(view.sync);
}

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE) });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${(await response.text()).trim()}`);
  return response.json();
}

let asking = null;

async function poll() {
  const query = new URLSearchParams({ offset: state.offset, limit: PAGE, points: 180, sort: byId("sort").value });
  if (byId("search").value) query.set("search", byId("search").value);
  if (state.open) query.set("open", state.open);
  const mine = asking = Symbol("the newest request");
  try {
    const view = await ask(`/api/overview?${query}`);
    // A later one may have overtaken it.
    if (mine !== asking) return;
    if (view.newest_event < state.event) {
      // Another director answers there now.
      state.event = 0;
      byId("events").replaceChildren();
    }
    show(view);
    if (view.newest_event > state.event) {
      showEvents((await ask(`/api/events?after=${state.event}`)).events.filter((event) => event.number > state.event));
    }
    document.body.dataset.ready = "yes";
  } catch (error) {
    const about = byId("about");
    about.textContent = `No answer from the director: ${error.message}`;
    about.className = "stale";
  }
}

function turn(pages) {
  state.offset = Math.max(0, state.offset + pages * PAGE);
  if (state.offset >= state.matched) state.offset = 0;
  poll();
}

byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("choose").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "sort"]) {
  byId(id).addEventListener("input", () => {
    state.offset = 0;
    poll();
  });
}
const opened = new URLSearchParams(location.search).get("open");
if (opened) state.open = opened;

async function forever() {
  if (!document.hidden) await poll();
  setTimeout(forever, INTERVAL);
}
forever();
