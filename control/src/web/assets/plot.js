// Small plots, as SVG.

import { short } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 180;
const HEIGHT = 40;

/** What is plotted: key, caption and unit. */
export const KINDS = [
  ["packets", "packets", "/s"],
  ["bits", "bits", "b/s"],
  ["connections", "new", "/s"],
  ["drops", "drops", "/s"],
];

/** A figure with one number over time, which `draw` fills. */
export function figure(kind, caption) {
  const figure = document.createElement("figure");
  figure.className = kind;
  const text = document.createElement("figcaption");
  const name = document.createElement("span");
  name.textContent = caption;
  const now = document.createElement("b");
  text.append(name, now);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "plot");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const base = document.createElementNS(SVG, "line");
  for (const [key, value] of [["x1", 0], ["x2", WIDTH], ["y1", HEIGHT - 0.5], ["y2", HEIGHT - 0.5]]) {
    base.setAttribute(key, value);
  }
  svg.append(base, document.createElementNS(SVG, "polygon"), document.createElementNS(SVG, "polyline"));
  figure.append(text, svg);
  return figure;
}

/** Draws points, newest last, on a scale from 0 to their greatest. */
export function draw(figure, points, now, unit) {
  const most = Math.max(1, ...points);
  const step = WIDTH / (WIDTH - 1);
  const at = points.slice(-WIDTH).map((value, i, all) => {
    const x = WIDTH - (all.length - 1 - i) * step;
    return `${x.toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`;
  });
  const svg = figure.querySelector("svg");
  figure.querySelector("b").textContent = short(now) + unit;
  svg.setAttribute("aria-label", `${figure.className}: ${short(now)}${unit}, at most ${short(most)}${unit}`);
  svg.querySelector("polyline").setAttribute("points", at.join(" "));
  const first = at.length ? at[0].split(",")[0] : WIDTH;
  svg.querySelector("polygon").setAttribute("points", at.length ? `${first},${HEIGHT} ${at.join(" ")} ${WIDTH},${HEIGHT}` : "");
}
