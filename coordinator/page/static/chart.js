// Charts over ticks: training values as a line, validation scores as dots, restarts as dashed lines.
import { figure, whole } from "./text.js";

const LEFT = 46, RIGHT = 58, TOP = 10, BOTTOM = 24; // px around the curve

export function drawChart(name, curve, scores, restarts, planned) {
  const place = document.querySelector(`[data-curve="${name}"]`);
  const width = place.clientWidth, height = place.clientHeight;
  if (!width) return;
  const values = [...curve, ...scores].map((point) => point[1]);
  const ticks = [...curve, ...scores].map((point) => point[0]);
  if (!values.length) {
    place.replaceChildren(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "no data yet"));
    return;
  }
  const axis = steps(Math.min(...values), Math.max(...values), 4);
  const [low, high] = [axis[0], axis[axis.length - 1]];
  const last = Math.max(...ticks), span = Math.max(1, Math.min(planned || last, last * 1.02));
  const x = (tick) => LEFT + (tick / span) * (width - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (height - TOP - BOTTOM);
  const parts = axis.flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, figure(value, 3)),
  ]);
  for (const tick of steps(0, span, 5).filter((at) => at <= span)) {
    parts.push(svg("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, whole(tick)));
  }
  for (const tick of restarts.filter((at) => at <= span)) {
    parts.push(svg("line", { class: "restart", x1: x(tick), x2: x(tick), y1: TOP, y2: height - BOTTOM }));
  }
  parts.push(...line("first", curve, x, y), ...line("second", scores, x, y));
  parts.push(...scores.map(([tick, value]) => svg("circle", { cx: x(tick), cy: y(value), r: 3.5 })));
  parts.push(...labels(curve, scores, y, width));
  place.replaceChildren(...parts);
}

function line(kind, points, x, y) {
  const at = points.map(([tick, value]) => `${x(tick).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return points.length ? [svg("polyline", { class: kind, points: at })] : [];
}

// The last values, beside the ends of the curves; moved apart if they would overlap.
function labels(curve, scores, y, width) {
  const made = [["now", curve], ["score", scores]].filter(([, points]) => points.length).map(([kind, points]) => {
    const value = points[points.length - 1][1];
    return { kind, at: y(value), text: figure(value, 3) };
  });
  if (made.length === 2 && Math.abs(made[0].at - made[1].at) < 14) {
    const [upper, lower] = made[0].at <= made[1].at ? made : [made[1], made[0]];
    const middle = (upper.at + lower.at) / 2;
    [upper.at, lower.at] = [middle - 7, middle + 7];
  }
  return made.map(({ kind, at, text }) => svg("text", { class: kind, x: width - RIGHT + 8, y: at + 4 }, text));
}

// About `count` round numbers, from at most `low` to at least `high`.
function steps(low, high, count) {
  const rough = Math.max((high - low) / count, Math.abs(high) * 1e-6, 1e-9);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
  const first = Math.floor(low / step), end = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: end - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}
