"use strict";
// Draws /dashboard/data.json, again and again. Every text is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5"];
const colours = new Map();
let key = "";
let drawn = "";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

function draw(tag, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function colour(name) {
  if (name === "unknown") return "var(--soft)";
  if (!colours.has(name)) colours.set(name, COLOURS[colours.size % COLOURS.length]);
  return `var(${colours.get(name)})`;
}

const percent = (x) => (x == null ? "" : `${(100 * x).toFixed(1)}%`);
const short = (id) => (id || "").slice(0, 12);
const clock = (s) => new Date(1000 * s).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const when = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function tip(event, text) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  box.style.left = `${Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${event.clientY + 14}px`;
}

// Lines over time (or rollouts): series [{name, points: [[x, y, says]], colour}], marks [{x, text, kind}].
function chart(into, { series, marks = [], top = 1, line = null, label = percent, along = clock }) {
  const points = series.flatMap((s) => s.points);
  if (!points.length) return into.replaceChildren(make("p", { class: "none" }, "Nothing to draw yet."));
  const [width, height] = [into.clientWidth || 600, into.clientHeight || 200];
  const [left, right, above, below] = [46, 10, marks.length ? 22 : 8, 22];
  const xs = points.map((p) => p[0]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1e-9)];
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => above + (1 - Math.min(y, top) / top) * (height - above - below);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const share of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: py(share * top), y2: py(share * top) }));
    svg.append(draw("text", { class: "tick", x: left - 8, y: py(share * top) + 4, "text-anchor": "end" }, label(share * top)));
  }
  const ticks = width < 480 ? 2 : 5;
  for (let i = 0; i <= ticks; i++) {
    const anchor = i === 0 ? "start" : i === ticks ? "end" : "middle";
    const x = x0 + (i / ticks) * (x1 - x0);
    svg.append(draw("text", { class: "tick", x: px(x), y: height - 5, "text-anchor": anchor }, along(x)));
  }
  if (line != null) svg.append(draw("line", { class: "mark", x1: left, x2: width - right, y1: py(line), y2: py(line) }));
  let free = -Infinity;
  for (const mark of marks.filter((m) => m.x >= x0 && m.x <= x1).sort((a, b) => a.x - b.x)) {
    const at = px(mark.x);
    svg.append(draw("line", { class: `mark ${mark.kind}`, x1: at, x2: at, y1: above - 4, y2: height - below }));
    if (at > free) {
      const anchor = at > width - 90 ? "end" : "start";
      svg.append(draw("text", { class: `mark-text ${mark.kind}`, x: at, y: above - 8, "text-anchor": anchor }, mark.text));
      free = at + 8 + 6.4 * mark.text.length;
    }
  }
  for (const { points: own, colour: stroke, dash } of series) {
    const path = own.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`).join("");
    const style = `stroke:${stroke};fill:none;stroke-width:2;stroke-linejoin:round`;
    const shape = draw("path", dash ? { d: path, "stroke-dasharray": "5 4" } : { d: path });
    shape.style.cssText = style;
    svg.append(shape);
    for (const p of own) {
      const dot = draw("circle", { cx: px(p[0]), cy: py(p[1]), r: own.length > 80 ? 1.6 : 2.6 });
      dot.style.fill = stroke;
      svg.append(dot);
    }
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [mx, my] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    for (const s of series) {
      for (const p of s.points) {
        const far = Math.hypot(px(p[0]) - mx, (py(p[1]) - my) / 3);
        if (!best || far < best.far) best = { far, says: `${s.name}\n${p[2]}` };
      }
    }
    tip(event, best && best.far < 40 ? best.says : "");
  });
  svg.addEventListener("pointerleave", (event) => tip(event, ""));
  into.replaceChildren(svg);
}

function legend(id, series) {
  $(id).replaceChildren(...series.map((s) => {
    const item = make("span", {}, make("i"), make("span", {}, s.name));
    item.firstChild.style.color = s.colour;
    item.firstChild.classList.toggle("dashed", Boolean(s.dash));
    return item;
  }));
}

function marks(data) {
  const releases = data.channels.filter((c) => c.name === data.gateway.channel).flatMap((c) => c.moves)
    .map((m) => ({ x: Date.parse(m.at) / 1000, text: m.action === "rollback" ? "rollback" : "release", kind: "release" }));
  const alerts = data.alerts.filter((a) => a.channel === data.gateway.channel)
    .map((a) => ({ x: a.at, text: `alert: ${a.domain}`, kind: "alert" }));
  return [...alerts, ...releases];
}

function rewards(data) {
  const series = Object.entries(data.traffic).map(([name, rows]) => ({
    name, colour: colour(name),
    points: rows.filter((r) => r[2] != null).map((r) => [r[0], r[2], `${percent(r[2])} of ${r[3]} scored, ${r[1]} requests\n${clock(r[0])}`]),
  })).filter((s) => s.points.length);
  legend("legend-reward", series);
  chart($("reward"), { series, marks: marks(data) });
}

function drift(data) {
  const found = new Map();
  for (const window of data.drift.filter((w) => w.channel === data.gateway.channel)) {
    for (const s of window.scores || []) {
      const name = s.domain ? `${s.domain}, ${s.signal}` : s.signal;
      if (!found.has(name)) {
        const [colour, dash] = [`var(${COLOURS[found.size % COLOURS.length]})`, found.size >= COLOURS.length];
        found.set(name, { name, colour, dash, points: [] });
      }
      const ratio = s.threshold ? s.score / s.threshold : 0;
      found.get(name).points.push([window.at, ratio, `${s.score.toFixed(3)} of a limit of ${s.threshold.toFixed(3)}\nmean ${s.mean}, ${s.n} requests\n${clock(window.at)}`]);
    }
  }
  const series = [...found.values()];
  legend("legend-drift", series);
  chart($("drift"), { series, line: 1, top: 2, label: (x) => `${x}×`, marks: marks(data).filter((m) => m.kind === "alert") });
}

function alerts(data) {
  const list = data.alerts.slice(0, 12).map((alert) => {
    const steps = alert.steps || [];
    const items = steps.map((step) => {
      const says = step.event === "collected" ? `${step.problems} problems`
        : step.event === "judged" ? `${step.verdict}, reward ${percent(step.reward)}`
        : step.event === "published" || step.event === "released" ? short(step.bundle)
        : step.event === "failed" ? step.error : "";
      return make("li", { class: step.event }, make("b", {}, step.event), make("small", {}, `+${(step.at - alert.at).toFixed(1)} s ${says || ""}`));
    });
    const signals = (alert.signals || []).map((s) => `${s.signal} ${Number(s.score).toFixed(3)} (limit ${Number(s.threshold).toFixed(3)})`).join(", ");
    return make("div", { class: "alert" },
      make("p", {}, make("span", { class: "kind" }, alert.kind === "new_domain" ? "New domain " : "Drift "), make("b", {}, alert.domain), ` on ${alert.channel}, ${clock(alert.at)}`),
      make("p", { class: "soft" }, signals, alert.report ? ". " : "", alert.report ? make("a", { href: alert.report, target: "_blank", rel: "noopener" }, "Evidently report") : ""),
      items.length ? make("ol", { class: "steps" }, ...items) : make("p", { class: "soft" }, alert.open ? "Waits for an adaptation." : "Nothing was started."));
  });
  $("alerts").replaceChildren(...(list.length ? list : [make("p", { class: "none" }, "No alert so far.")]));
}

function prompts(data) {
  const served = data.prompts[data.gateway.channel] || {};
  const blocks = Object.entries(served).map(([domain, { prompts: own, ancestry }]) => {
    const known = new Map([...ancestry, ...own].map((p) => [p.id, p]));
    const head = make("h3", {}, domain);
    head.style.color = colour(domain);
    const rows = own.slice(0, 4).map((p, i) => {
      const chain = [];
      for (let at = known.get((p.parents || [])[0]); at && chain.length < 6; at = known.get((at.parents || [])[0])) chain.push(at);
      const score = p.score == null ? "" : `, ${percent(p.score)} of its anchors`;
      return make("div", { class: "prompt" }, p.text,
        make("small", {}, `${i ? "beside it" : "served"}; ${p.origin}${score}`),
        ...chain.map((a) => make("div", { class: "from" }, `from: ${a.text}`)));
    });
    return make("div", {}, head, ...rows);
  });
  $("prompts").replaceChildren(...(blocks.length ? blocks : [make("p", { class: "none" }, "No release yet.")]));
}

function bar(value) {
  const svg = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" });
  const fill = draw("rect", { width: 100 * value, height: 10, rx: 5 });
  fill.style.fill = "var(--c0)";
  svg.append(fill);
  return make("span", { class: "bar" }, svg);
}

function releases(data) {
  const parts = data.channels.flatMap((channel) => {
    const rows = channel.moves.map((move, i) => ({ move, before: channel.moves[i - 1] })).reverse().map(({ move, before }, i) => {
      const gain = move.difference ? `${move.difference.mean >= 0 ? "+" : ""}${move.difference.mean.toFixed(3)} [${move.difference.low.toFixed(3)}, ${move.difference.high.toFixed(3)}]` : "";
      const rewards = Object.entries(move.rewards).map(([d, r]) => make("div", {}, bar(r), `${d} ${percent(r)}`));
      return make("tr", { class: i === 0 ? "now" : "" },
        make("td", {}, make("code", {}, short(move.bundle)), make("div", { class: "soft" }, `${when(move.at)}${move.action === "rollback" ? ", rollback" : ""}`)),
        make("td", {}, move.trained_on), make("td", { class: "num" }, ...rewards), make("td", { class: "num" }, gain),
        make("td", { class: "soft" }, move.reason),
        make("td", {}, make("div", { class: "tools" },
          make("button", { class: "diff", disabled: !before || before.bundle === move.bundle, onclick: () => showDiff(before.bundle, move.bundle) }, "diff"),
          i === 0 && make("button", { class: "danger roll", disabled: !channel.before, onclick: () => askRollback(channel) }, "roll back"))));
    });
    return [make("h3", {}, `channel ${channel.name}`), make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["release", "trained on", "held-out reward", "against production", "why", ""].map((h) => make("th", {}, h)))),
      make("tbody", {}, ...rows)))];
  });
  $("releases").replaceChildren(...(parts.length ? parts : [make("p", { class: "none" }, "Nothing was released yet.")]));
}

function curves(data) {
  const boxes = Object.entries(data.curves).map(([name, rows]) => {
    const box = make("div", { class: "chart" });
    return { name, rows, box };
  });
  $("curves").replaceChildren(...(boxes.length ? boxes.map((b) => make("div", {}, make("h3", {}, b.name), b.box)) : [make("p", { class: "none" }, "No training yet.")]));
  for (const { name, rows, box } of boxes) {
    const points = rows.map((r) => [r[0], r[1], `${percent(r[1])} after ${r[0]} rollouts\nKL ${r[2].toFixed(3)} nats a token`]);
    chart(box, { series: [{ name, colour: "var(--c0)", points }], along: (x) => Math.round(x).toLocaleString() });
  }
}

function head(data) {
  const g = data.gateway;
  $("channel").textContent = `channel ${g.channel || ""}`;
  const bad = g.problem || !g.production || g.draining;
  const recent = data.alerts[0] && data.now - data.alerts[0].at < 120 ? ` An alert ${Math.round(data.now - data.alerts[0].at)} s ago.` : "";
  const open = data.alerts.filter((a) => a.open && a.channel === g.channel);
  const waits = open.map((a) => `${a.domain} since ${clock(a.at)}`).join(", ");
  $("status").className = `status ${bad ? "bad" : open.length ? "waits" : "ok"}`;
  $("status").lastElementChild.textContent = g.draining ? "Stopping." : g.problem ? `Degraded: ${g.problem}` : !g.production ? "No release yet."
    : open.length ? `No adaptation has answered an alert: ${waits}. Does \`python -m pipelines deploy\` run?` : `All is well.${recent}`;
  const last = Math.max(0, ...Object.values(data.traffic).flatMap((rows) => rows.map((r) => r[0])));
  const rate = Object.values(data.traffic).flat().filter((r) => r[0] > last - 10).reduce((sum, r) => sum + r[1], 0) / 10;
  const facts = {
    release: short(g.production) || "none", "in force since": g.since ? clock(g.since) : "", domains: (g.domains || []).join(", "),
    "requests a second": data.now - last < 30 ? rate.toFixed(1) : "0", "in hand": g.in_hand, "engine restarts": (g.engine || {}).restarts,
    ...(g.canary ? { canary: `${short(g.canary.release)}, ${g.canary.scored} of ${g.canary.of} scored` } : {}),
    ...(g.shadow ? { shadow: short(g.shadow) } : {}),
  };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value ?? "")))));
  $("links").replaceChildren(...Object.entries(data.links).map(([name, href]) => make("a", { href, target: "_blank", rel: "noopener" }, name)));
}

async function showDiff(first, second) {
  const answer = await fetch(`/dashboard/diff.json?first=${first}&second=${second}`, { headers: authorization() });
  const found = await answer.json();
  const body = $("diff-body");
  if (!answer.ok) body.replaceChildren(make("p", {}, found.error));
  else {
    const pairs = found.prompts.map((p) => make("div", {}, make("h3", {}, `${p.domain}, ${p.rank === 0 || p.rank === 1 ? "" : "rank "}${p.rank}`),
      make("div", { class: "pair" }, ...[p.first, p.second].map((side) => make("div", { class: "prompt" }, side ? side[0] : make("span", { class: "same" }, "none"))))));
    const figures = found.figures.map((f) => make("tr", {}, make("td", {}, f.path), make("td", { class: "num" }, String(f.first ?? "")), make("td", { class: "num" }, String(f.second ?? ""))));
    body.replaceChildren(make("h2", {}, `${short(first)} → ${short(second)}`), ...pairs,
      make("h3", {}, "figures"), make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...figures))));
  }
  $("diff").showModal();
}

function askRollback(channel) {
  $("rollback-says").textContent = `Channel ${channel.name}: from ${short(channel.bundle)} back to ${short(channel.before)}.`;
  $("rollback-answer").textContent = "";
  $("rollback-do").onclick = async () => {
    key = $("key").value;
    const answer = await fetch("/admin/rollback", {
      method: "POST", headers: { ...authorization(), "Content-Type": "application/json" },
      body: JSON.stringify({ channel: channel.name, to: channel.before }),
    });
    const said = await answer.json();
    $("rollback-answer").className = `answer ${answer.ok ? "ok" : "bad"}`;
    $("rollback-answer").textContent = answer.ok ? `Done: ${short(said.bundle)} is in force.` : said.error.message;
    if (answer.ok) refresh();
  };
  $("rollback").showModal();
}

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

async function refresh() {
  try {
    const answer = await fetch("/dashboard/data.json", { headers: authorization() });
    if (answer.status === 401) {
      key = prompt("This gateway asks for a key:") || "";
      return;
    }
    const text = await answer.text();
    const data = JSON.parse(text);
    head(data);
    const content = JSON.stringify({ ...data, now: 0, gateway: data.gateway.channel });
    if (content === drawn) return; // nothing moved: leave what is being read alone
    drawn = content;
    rewards(data); drift(data); alerts(data); prompts(data); releases(data); curves(data);
    document.body.dataset.ready = "yes";
  } catch (error) {
    $("status").className = "status bad";
    $("status").lastElementChild.textContent = `The gateway does not answer (${error.message}).`;
  }
}

addEventListener("resize", () => { drawn = ""; });
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
refresh();
