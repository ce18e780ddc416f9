// Formats values as text, and puts them into the page.

// A number with this many significant digits; a dash if it is missing.
export function figure(value, digits) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-5)) return value.toExponential(digits - 1);
  return value.toLocaleString("en-GB", { maximumSignificantDigits: digits });
}

// An integer.
export function whole(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-GB");
}

// Puts text into all elements of that name below `root`. Elements that already have it are not touched.
export function put(name, text, root = document) {
  for (const place of root.querySelectorAll(`[data-figure="${name}"]`)) {
    if (place.textContent !== text) place.textContent = text;
  }
}
