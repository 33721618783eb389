// What the first m members bring and cost, as far as the file says, drawn as small plots.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [280, 140];
const [LEFT, RIGHT, TOP, BOTTOM] = [8, 8, 20, 34];
const STEEP = 3; // units that a line rises with a member, from which on a label fits below it

/** Bits of a binary weight in the file, by the format of its filters. */
const FILTER_BITS = { "1bit": 1, int8: 8, float32: 32 };

/**
 * The curves that a file gives.
 *
 * @param {{metadata: object, macs: Object<string, number>, bytes: number}} ensemble
 * @returns {{name: string, values: number[], format: function(number): string}[]} a value for each
 *   number of members; a quantity that the file doesn't tell is left out.
 */
export function curves({ metadata, macs, bytes, hasTrunk, key }) {
  const isOneByOne = metadata.layout !== "branches";
  const counts = Array.from({ length: metadata.members }, (_, i) => i + 1);
  const found = [];
  if (metadata.top1) {
    found.push({ name: "Accuracy on held-out images", values: metadata.top1, format: inPercent });
  }
  if (metadata.theory_parts) {
    const all = ownBytes(metadata, metadata.members);
    const values = counts.map((count) => bytes - all + ownBytes(metadata, count));
    found.push({ name: "File with so many members", values, format: inBytes, fromZero: true });
  }
  const member = macs[key];
  const costs = isOneByOne
    ? {
        ...(member && { "Multiply-accumulates": { image: hasTrunk ? macs.prefix : 0, member } }),
        ...Object.fromEntries(
          Object.entries(metadata.instructions ?? {}).map(([on, each]) => [`Instructions, ${on}`, each])
        ),
      }
    : {};
  for (const [name, { image, member: each }] of Object.entries(costs)) {
    const values = counts.map((count) => image + count * each);
    found.push({ name: `${name} per image`, values, format: inMillions, fromZero: true });
  }
  return found;
}

/** Bytes of the first members' own values; equal ones count once where the file says so. */
function ownBytes({ theory_parts: parts, theory_parts_of_first: ofFirst = {}, members, filters }, count) {
  return Object.entries(parts)
    .filter(([name]) => name.startsWith("member_"))
    .map(([name, size]) => {
      const own = ofFirst[name]?.[count - 1] ?? (size / members) * count;
      return name === "member_binary_filters" ? own * (FILTER_BITS[filters] ?? 1) : own;
    })
    .reduce((sum, size) => sum + size, 0);
}

const inPercent = (value) => `${value.toFixed(1)} %`;
const inBytes = (value) => `${Math.round(value / 1000).toLocaleString("en")} kB`;
const inMillions = (value) => `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} M`;

/** A plot of one curve with the current number of members marked. */
export function plot({ name, values, format, fromZero }, members) {
  const [low, high] = [fromZero ? 0 : Math.min(...values), Math.max(...values)];
  const x = (i) => LEFT + (i * (WIDTH - LEFT - RIGHT)) / Math.max(values.length - 1, 1);
  const y = (value) => TOP + ((high - value) * (HEIGHT - TOP - BOTTOM)) / (high - low || 1);
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const now = document.createElement("strong");
  now.textContent = format(values[members - 1]);
  caption.append(name, now);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute(
    "aria-label",
    `${name}: ${format(values[0])} with 1 member, ${format(values.at(-1))} with ${values.length}`
  );
  const axis = HEIGHT - BOTTOM + 14;
  const isSteep = values.length > 1 && y(values[0]) - y(values[1]) > STEEP;
  const points = values.map((value, i) => `${x(i)},${y(value)}`).join(" ");
  svg.append(
    element("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: axis, y2: axis }),
    element("polyline", { class: "line", points }),
    ...values.map((value, i) => element("circle", { class: "point", cx: x(i), cy: y(value), r: 2.5 })),
    element("circle", { class: "here", cx: x(members - 1), cy: y(values[members - 1]), r: 5 }),
    text("1", x(0), HEIGHT - 1, "start"),
    text(`${values.length} members`, WIDTH - RIGHT, HEIGHT - 1, "end"),
    text(format(values[0]), x(0) + (isSteep ? 8 : 0), y(values[0]) + (isSteep ? 9 : -9), "start"),
    text(format(values.at(-1)), WIDTH - RIGHT, y(values.at(-1)) - 9, "end")
  );
  figure.append(caption, svg);
  return figure;
}

/** The rows of all curves, for readers of tables. */
export function table(all) {
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    line.append(...cells.map((cell) => Object.assign(document.createElement(kind), { textContent: cell })));
    return line;
  };
  return [
    row(["Members", ...all.map(({ name }) => name)], "th"),
    ...all[0].values.map((_, i) => row([i + 1, ...all.map(({ values, format }) => format(values[i]))], "td")),
  ];
}

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function text(words, x, y, anchor) {
  const node = element("text", { x, y, "text-anchor": anchor });
  node.textContent = words;
  return node;
}
