// Draws the savings report. Data comes inlined (`report --html`) or from /dashboard/data. Text is only ever set as text.
// Every figure carries data-key, its path in the data, and data-value, the number as it came.
"use strict";

const main = document.getElementById("main");
const statusLine = document.getElementById("status");
const LAYERS = { routing: "routing", gate: "gate", prefix_cache: "prefix cache", kernel: "kernel", lost: "lost tries", shadow: "shadow" };
const REFRESH_MS = 30000;
let apiKey = null;

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "text", "title", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Figures

function dollars(value, sign = false) {
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 1 || size === 0 ? 2 : Math.min(9, 3 - Math.floor(Math.log10(size)));
  const mark = value < 0 ? "−" : sign && value > 0 ? "+" : "";
  return `${mark}$${size.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}
const signed = (value) => dollars(value, true);
const whole = (value) => value.toLocaleString("en");
const rounded = (value) => whole(Math.round(value));
const share = (value) => `${value < 0 ? "−" : ""}${(100 * Math.abs(value)).toFixed(1)} %`;
const grade = (value) => value.toFixed(3);
const seconds = (value) => `${value.toFixed(3)} s`;

function figure(key, value, format, tag = "span") {
  const known = value !== null && value !== undefined;
  const tone = format === signed && known && value !== 0 ? (value > 0 ? "gain" : "loss") : null;
  const text = known ? format(value) : "–";
  return make(tag, { "data-key": key, "data-value": known ? value : "", class: tone, title: known ? null : "not measured" }, text);
}

function bounds(key, interval, format) {
  if (!interval || interval.low === null) return null;
  return make("span", { class: "small" }, " ", figure(`${key}/low`, interval.low, format), " to ", figure(`${key}/high`, interval.high, format));
}

function at(data, path) {
  return path.split("/").reduce((value, part) => (value === null || value === undefined ? value : value[part]), data);
}

function ratio(part, of) {
  return of ? part / of : null;
}

// Parts of the page

function tile(name, ...content) {
  return make("div", { class: "tile" }, make("span", { class: "small" }, name), ...content);
}

function panel(title, ...content) {
  return make("section", {}, make("h2", {}, title), ...content);
}

function table(label, heads, rows) {
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => (cell instanceof Node && cell.tagName === "TD" ? cell : make("td", {}, cell)))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function tiles(total) {
  const tier1 = total.served.tier1 || 0, answered = tier1 + (total.served.frontier || 0);
  return make("div", { class: "tiles" },
    tile("saved", figure("total/saved_usd/value", total.saved_usd.value, signed, "b"), bounds("total/saved_usd", total.saved_usd, signed)),
    tile("of the frontier's bill", figure("total/saved_ratio/value", total.saved_ratio.value, share, "b"), bounds("total/saved_ratio", total.saved_ratio, share)),
    tile("cost", figure("total/cost_usd", total.cost_usd, dollars, "b")),
    tile("at the frontier, warm cache", figure("total/baseline_usd", total.baseline_usd, dollars, "b")),
    tile("requests", figure("total/requests", total.requests, whole, "b"),
      make("span", { class: "small" }, figure("total/unserved", total.unserved, whole), " without an answer, ", figure("total/unpriced", total.unpriced, whole), " not priced")),
    tile("answered by tier 1", figure("=total.tier1_ratio", ratio(tier1, answered), share, "b"),
      make("span", { class: "small" }, figure("total/served/tier1", tier1, whole), " of ", figure("=total.answered", answered, whole))),
    tile("escalated", figure("=total.escalation_rate", ratio(total.escalated, total.judged), share, "b"),
      make("span", { class: "small" }, figure("total/escalated", total.escalated, whole), " of ", figure("total/judged", total.judged, whole), " drafts judged")),
    tile("quality, of the frontier's", figure("total/quality/value", at(total, "quality/value"), grade, "b"),
      make("span", { class: "small" }, "frontier ", figure("total/frontier_quality/value", at(total, "frontier_quality/value"), grade), ", ", figure("total/n_graded", total.n_graded, whole), " graded")));
}

function layerChart(total) {
  const names = Object.keys(LAYERS), rowHeight = 30, left = 110, right = 150, width = 520;
  const values = names.map((name) => (total.layers[name] ? total.layers[name].value : null));
  const most = Math.max(1e-12, ...values.map((value) => Math.abs(value || 0)));
  const anyLoss = values.some((value) => value < 0);
  const zero = anyLoss ? left + (width - left - right) / 2 : left;
  const scale = (anyLoss ? (width - left - right) / 2 : width - left - right) / most;
  const chart = make("svg", { viewBox: `0 0 ${width} ${names.length * rowHeight}`, role: "img", "aria-label": "savings by layer; the table of figures is beside it" });
  chart.append(make("line", { class: "axis", x1: zero, x2: zero, y1: 0, y2: names.length * rowHeight }));
  names.forEach((name, index) => {
    const value = values[index], y = index * rowHeight;
    chart.append(make("text", { x: 0, y: y + 19 }, LAYERS[name]));
    if (value !== null) {
      const length = Math.abs(value) * scale;
      chart.append(make("rect", { class: value < 0 ? "bar-loss" : "bar-gain", x: value < 0 ? zero - length : zero, y: y + 7, width: length, height: 16, rx: 2 }));
    }
    const text = figure(`total/layers/${name}/value`, value, signed, "text");
    if (value === null) text.textContent = "not measured";
    text.setAttribute("x", width);
    text.setAttribute("y", y + 19);
    text.setAttribute("text-anchor", "end");
    chart.append(text);
  });
  return chart;
}

function spendTable(total) {
  const rows = [["answers", "answers_usd"], ["router", "router_usd"], ["rejected drafts", "wasted_drafts_usd"], ["judging", "judging_usd"], ["lost tries", "lost_usd"], ["shadow", "shadow_usd"]];
  return table("what the money was spent on", ["spent on", "cost", "of all"], rows.map(([name, field]) => [
    name, figure(`total/${field}`, total[field], dollars), figure(`=total.${field}.ratio`, ratio(total[field], total.cost_usd), share)]));
}

function dayChart(days) {
  const names = Object.keys(days), width = 520, height = 180, bottom = 22, left = 78;
  const most = Math.max(1e-12, ...names.map((day) => Math.max(days[day].cost_usd, days[day].baseline_usd)));
  const step = (width - left) / Math.max(names.length, 1), bar = Math.min(22, step * 0.36);
  const chart = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "cost and frontier cost per day; the figures are in the table of days" });
  for (const part of [0, 0.5, 1]) {
    const y = height - bottom - part * (height - bottom - 12);
    chart.append(make("line", { class: "axis", x1: left, x2: width, y1: y, y2: y }));
    chart.append(make("text", { class: "soft", x: left - 6, y: y + 4, "text-anchor": "end" }, dollars(part * most)));
  }
  const every = Math.ceil(names.length / 8);
  names.forEach((day, index) => {
    const middle = left + step * (index + 0.5);
    [["baseline_usd", "bar-frontier", -bar], ["cost_usd", "bar-tier1", 0]].forEach(([field, look, shift]) => {
      const tall = (days[day][field] / most) * (height - bottom - 12);
      chart.append(make("rect", { class: look, x: middle + shift, y: height - bottom - tall, width: bar, height: tall },
        make("title", {}, `${day}: ${dollars(days[day][field])}`)));
    });
    if (index % every === 0) chart.append(make("text", { class: "soft", x: middle, y: height - 6, "text-anchor": "middle" }, day.slice(5)));
  });
  const key = make("p", { class: "small key" }, make("i", { class: "frontier" }), "at the frontier", make("i", { class: "tier1" }), "cost");
  return make("div", {}, chart, key);
}

function groupTable(label, field, groups) {
  const rows = Object.entries(groups).map(([name, group]) => {
    const key = `${field}/${name}`, tier1 = group.served.tier1 || 0, answered = tier1 + (group.served.frontier || 0);
    return [name, figure(`${key}/requests`, group.requests, whole), figure(`=${key}.tier1_ratio`, ratio(tier1, answered), share),
      figure(`=${key}.escalation_rate`, ratio(group.escalated, group.judged), share),
      figure(`${key}/cost_usd`, group.cost_usd, dollars), figure(`${key}/baseline_usd`, group.baseline_usd, dollars),
      figure(`${key}/saved_usd/value`, group.saved_usd.value, signed),
      make("td", {}, figure(`${key}/saved_ratio/value`, group.saved_ratio.value, share), bounds(`${key}/saved_ratio`, group.saved_ratio, share)),
      make("td", {}, figure(`${key}/quality/value`, at(group, "quality/value"), grade), bounds(`${key}/quality`, group.quality, grade)),
      figure(`${key}/frontier_quality/value`, at(group, "frontier_quality/value"), grade)];
  });
  return table(label, [label, "requests", "tier 1", "escalated", "cost", "at frontier", "saved", "saved, share", "quality", "frontier's"], rows);
}

function countTable(label, field, counts) {
  const rows = Object.entries(counts).map(([name, count]) => [name.replaceAll("_", " "), figure(`${field}/${name}`, count, whole)]);
  return rows.length ? table(label, [label, "requests"], rows) : make("p", { class: "small" }, "none");
}

function notes(report) {
  const lines = [`Intervals: ${report.config.level * 100} %, ${report.config.n_resamples} resamples of sessions. Savings are signed; a request without an answer counts its cost as lost.`];
  for (const speed of report.prefill) lines.push(`Prefill of ${speed.tier} ${speed.model}: ${(speed.s_per_token * 1e6).toFixed(1)} µs a token, from ${speed.n_attempts} attempts; it prices the prefix cache.`);
  if (!report.prefill.length) lines.push("Prefix cache: no engine's prefill speed could be read out of these rows, so its saving is inside routing.");
  if (report.config.kernel_speedup === null) lines.push("Kernel: no measured speedup was given, so its saving is inside routing.");
  return make("div", {}, ...lines.map((line) => make("p", { class: "small" }, line)));
}

function engineTable(engines) {
  return table("engines", ["engine", "replica", "running", "waiting", "KV in use", "prefix hits"], engines.map((engine, index) => {
    const key = `engines/${index}`;
    if (engine.error) return [engine.tier, make("td", { class: "text loss" }, engine.error), "", "", "", ""];
    return [engine.tier, engine.replica_id, figure(`${key}/running`, engine.running, whole), figure(`${key}/waiting`, engine.waiting, whole),
      figure(`${key}/kv_usage_ratio`, engine.kv_usage_ratio, share), figure(`${key}/prefix_hit_ratio`, engine.prefix_hit_ratio, share)];
  }));
}

function replicaTable(replicas) {
  return table("replica", ["replica", "tier", "attempts", "prefix hits", "input tokens", "output tokens", "engine time"], Object.entries(replicas).map(([name, use]) => {
    const key = `by_replica/${name}`;
    return [name, use.tier, figure(`${key}/attempts`, use.attempts, whole), figure(`=${key}.prefix_hit_ratio`, ratio(use.cached_tokens, use.input_tokens), share),
      figure(`${key}/input_tokens`, use.input_tokens, whole), figure(`${key}/output_tokens`, use.output_tokens, whole), figure(`${key}/engine_s`, use.engine_s, seconds)];
  }));
}

function queueTable(replicas) {
  return table("replica", ["replica", "cache known by", "waiting", "in all", "prefill tokens/s"], replicas.map((replica, index) => {
    const key = `replicas/${index}`;
    return [replica.replica_id, replica.mode, figure(`${key}/waiting`, replica.waiting, whole), figure(`${key}/outstanding`, replica.outstanding, whole),
      figure(`${key}/prefill_tokens_per_s`, replica.prefill_tokens_per_s, rounded)];
  }));
}

function promotionTable(promotions) {
  const text = (value) => make("td", { class: "text" }, value === null || value === "" ? "–" : value);
  return table("promotions", ["time", "step", "artefact", "version", "reasons"], promotions.map((entry, index) => [
    entry.at.slice(0, 19).replace("T", " "), text(entry.step), text(entry.artefact), figure(`promotions/${index}/version`, entry.version, whole),
    text((entry.reasons || []).join(", "))]));
}

function budgetTable(budgets) {
  return table("budgets", ["budget", "period", "from", "spent", "reserved", "soft", "hard"], budgets.map((budget, index) => {
    const key = `budgets/${index}`;
    return [`${budget.scope} ${budget.subject}`, budget.period, budget.starts, figure(`${key}/spent_usd`, budget.spent_usd, dollars),
      figure(`${key}/reserved_usd`, budget.reserved_usd, dollars), figure(`${key}/soft_usd`, budget.soft_usd, dollars), figure(`${key}/hard_usd`, budget.hard_usd, dollars)];
  }));
}

function latestTable(latest) {
  const text = (value) => make("td", { class: "text" }, value === null ? "–" : value);
  return table("latest requests", ["time", "tenant", "category", "answered by", "decision", "gate", "cost", "at frontier"], latest.map((row, index) => [
    row.at.slice(0, 19).replace("T", " "), text(row.tenant), text(row.category), text(row.served_tier || row.outcome), text(row.decision),
    text(row.verdict === null ? null : row.verdict.length ? row.verdict.join(", ") : "accepted"),
    figure(`latest/${index}/cost_usd`, row.cost_usd, dollars), figure(`latest/${index}/baseline_cost_usd`, row.baseline_cost_usd, dollars)]));
}

function state(title, ...content) {
  return make("div", { class: "state" }, make("h2", {}, title), ...content);
}

function draw(data) {
  const report = data.report, parts = [];
  if (!report.total.requests) {
    parts.push(state("No requests in this range", make("p", {}, "Figures appear here with the first request that the ledger books.")));
  } else {
    parts.push(tiles(report.total), make("div", { class: "grid" },
      panel("Savings by layer", layerChart(report.total)), panel("What the money was spent on", spendTable(report.total)),
      panel("Cost per day", dayChart(report.by_day)),
      panel("Why drafts were rejected", countTable("reason", "reject_reasons", report.reject_reasons)),
      panel("Why a tier was asked", countTable("decision", "decisions", report.decisions))),
      panel("By category", groupTable("category", "by_category", report.by_category)),
      panel("By tenant", groupTable("tenant", "by_tenant", report.by_tenant)),
      panel("By day", groupTable("day", "by_day", report.by_day)));
    if (Object.keys(report.by_replica).length) parts.push(panel("By replica", replicaTable(report.by_replica)));
  }
  if (data.engines) parts.push(panel("Engines now", engineTable(data.engines)));
  if (data.replicas && data.replicas.length) parts.push(panel("Replicas' queues now", queueTable(data.replicas)));
  if (data.promotions && data.promotions.length) parts.push(panel("Promotions", promotionTable(data.promotions)));
  if (data.budgets && data.budgets.length) parts.push(panel("Budgets", budgetTable(data.budgets)));
  if (data.latest && data.latest.length) parts.push(panel("Latest requests", latestTable(data.latest)));
  if (report.total.requests) parts.push(notes(report));
  main.replaceChildren(...parts);
  main.setAttribute("data-state", report.total.requests ? "ready" : "empty");
  const live = data.in_flight === undefined ? "" : `${data.in_flight} in flight · `;
  statusLine.textContent = `${live}as of ${data.generated_at.slice(0, 19).replace("T", " ")} UTC`;
}

// Where the data come from

function askForKey(message) {
  const input = make("input", { type: "password", autocomplete: "off", id: "key", required: "" });
  const form = make("form", { class: "state" }, make("label", { for: "key" }, message), input, make("button", {}, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey = input.value;
    load(true);
  });
  main.replaceChildren(form);
  main.setAttribute("data-state", "key");
  input.focus();
}

function fail(message) {
  const again = make("button", {}, "Try again");
  again.addEventListener("click", () => load(true));
  main.replaceChildren(make("div", { class: "state", role: "alert" }, make("h2", {}, "The figures could not be read"), make("p", {}, message), again));
  main.setAttribute("data-state", "error");
  statusLine.textContent = "";
}

async function load(visibly) {
  if (visibly) {
    main.replaceChildren(make("p", { class: "state" }, "Reading the ledger…"));
    main.setAttribute("data-state", "loading");
  }
  const range = document.getElementById("range").value;
  try {
    const reply = await fetch(`/dashboard/data?range=${range}`, { headers: apiKey ? { authorization: `Bearer ${apiKey}` } : {}, cache: "no-store" });
    const data = await reply.json();
    if (reply.status === 401) return askForKey(apiKey ? "That key is not known. Admin key:" : "Admin key:");
    if (!reply.ok) return fail(data.error.message);
    if (range === document.getElementById("range").value) draw(data);
  } catch (error) {
    fail("The gateway does not answer.");
  }
}

const inlined = document.getElementById("data");
if (inlined) {
  draw(JSON.parse(inlined.textContent));
} else {
  document.getElementById("range-label").hidden = false;
  document.getElementById("range").addEventListener("change", () => load(true));
  setInterval(() => {
    if (!document.hidden && ["ready", "empty"].includes(main.getAttribute("data-state"))) load(false);
  }, REFRESH_MS);
  load(true);
}
