// Figures as text, and where they go.

// A number with so many significant digits; a dash where there is none.
export function figure(value, digits) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-5)) return value.toExponential(digits - 1);
  return value.toLocaleString("en-GB", { maximumSignificantDigits: digits });
}

// A count.
export function whole(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-GB");
}

// Into all places of that name below `root`; untouched where it is there already.
export function put(name, text, root = document) {
  for (const place of root.querySelectorAll(`[data-figure="${name}"]`)) {
    if (place.textContent !== text) place.textContent = text;
  }
}
